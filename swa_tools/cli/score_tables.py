"""Scores of checkpoints, for people and as JSON."""

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.output import number, print_json, print_table
from swa_tools.statistics import wilson_interval

if TYPE_CHECKING:
    from swa_tools.evaluation import CheckpointScores, Score


def print_scores(
    scores: "CheckpointScores", *, split: str, per_class: bool = False, as_json: bool = False
) -> None:
    """Print the scores on stdout, as tables or as one JSON document."""
    if as_json:
        print_json(scores_document(scores, split=split, per_class=per_class))
        return
    by_name = _by_name(scores)
    has_real = any(one.real is not None for one in scores.checkpoints)
    has_several = len(by_name) > 1
    columns = ["checkpoint", "top-1 %", "95 %", "top-5 %", "nll", "ece %"]
    columns += ["ReaL %"] * has_real + ["p"] * has_several
    best = _best(scores)
    rows = []
    for name, score in by_name.items():
        row = _row(_title(name, scores), score)
        if has_real:
            row.append(number(_real(name, scores)))
        if has_several:
            is_best = name == best
            row.append("best" if is_best else f"{scores.evaluation.p_value(name, best):.3f}")
        rows.append(row)
    n_samples = scores.checkpoints[0].score.n_samples
    print_table(columns, rows, caption=f"{n_samples:,} images of {split}")
    if per_class:
        _print_per_class(scores)
    if scores.evaluation.agreements:
        _print_agreements(scores)


def scores_document(
    scores: "CheckpointScores", *, split: str, per_class: bool = False
) -> dict[str, Any]:
    """Return the scores as a JSON document; percentages are percent."""
    best = _best(scores)
    evaluation = scores.evaluation

    def entry(name: str, score: "Score") -> dict[str, Any]:
        found: dict[str, Any] = {
            **dataclasses.asdict(score),
            "top1_interval": _interval(score),
            "p_against_best": evaluation.p_value(name, best),
        }
        if per_class:
            found["per_class"] = {
                class_name: {"n_samples": n, "n_correct": n_correct, "top1": 100 * n_correct / n}
                for class_name, (n_correct, n) in _classes(scores, name).items()
            }
        return found

    document: dict[str, Any] = {
        "split": split,
        "images": scores.images.digest(),
        "n_samples": scores.checkpoints[0].score.n_samples,
        "n_skipped": scores.n_skipped,
        "best": best,
        "checkpoints": [
            {
                "name": one.name,
                "path": str(one.path),
                "digest": one.digest,
                "kind": one.kind,
                "bn": one.bn,
                **entry(one.name, one.score),
                "real": one.real,
            }
            for one in scores.checkpoints
        ],
    }
    if evaluation.ensemble is not None:
        document["ensemble"] = {
            "name": scores.ensemble_name,
            "members": list(scores.members),
            **entry("ensemble", evaluation.ensemble),
        }
        document["agreements"] = [dataclasses.asdict(one) for one in evaluation.agreements]
    return document


def _by_name(scores: "CheckpointScores") -> dict[str, "Score"]:
    by_name = dict(scores.evaluation.scores)
    if scores.evaluation.ensemble is not None:
        by_name["ensemble"] = scores.evaluation.ensemble
    return by_name


def _best(scores: "CheckpointScores") -> str:
    by_name = _by_name(scores)
    return max(by_name, key=lambda name: by_name[name].n_correct)


def _title(name: str, scores: "CheckpointScores") -> str:
    if name != "ensemble":
        return name
    return f"{scores.ensemble_name} of {len(scores.members)}"


def _real(name: str, scores: "CheckpointScores") -> float | None:
    return next((one.real for one in scores.checkpoints if one.name == name), None)


def _row(title: str, score: "Score") -> list[str]:
    low, high = _interval(score)
    return [
        title,
        f"{score.top1:.2f}",
        f"{low:.2f} – {high:.2f}",
        number(score.top5),
        f"{score.nll:.4f}",
        f"{score.ece:.2f}",
    ]


def _interval(score: "Score") -> tuple[float, float]:
    return wilson_interval(score.n_correct, score.n_samples)


def _classes(scores: "CheckpointScores", name: str) -> dict[str, tuple[int, int]]:
    """Return how many images of each class folder are labelled right, and how many it has."""
    by_output = scores.evaluation.by_class(name)
    names = zip(scores.images.classes, scores.images.outputs, strict=True)
    return {folder: by_output[output] for folder, output in names if output in by_output}


def _print_per_class(scores: "CheckpointScores") -> None:
    names = list(_by_name(scores))
    by_name = {name: _classes(scores, name) for name in names}
    rows = []
    for folder, (_, n) in by_name[names[0]].items():
        shares = [100 * by_name[name][folder][0] / n for name in names]
        rows.append([folder, f"{n:,}", *(f"{share:.2f}" for share in shares)])
    print_table(["top-1 % by class", "images", *(_title(name, scores) for name in names)], rows)


def _print_agreements(scores: "CheckpointScores") -> None:
    """Print the figures of section 3.5: between members, and between averages and the ensemble."""
    agreements = scores.evaluation.agreements
    members = [one for one in agreements if one.second != "ensemble"]
    rows = [
        [f"{one.first} and the {scores.ensemble_name}", f"{one.l2:.4f}", f"{one.same_label:.2f}"]
        for one in agreements
        if one.second == "ensemble"
    ]
    for title, of in (("mean", lambda values: sum(values) / len(values)), ("largest", max)):
        l2, same = of([one.l2 for one in members]), of([one.same_label for one in members])
        rows.append([f"consecutive members, {title}", f"{l2:.4f}", f"{same:.2f}"])
    print_table(["class probabilities", "L2 distance", "same label %"], rows)
    click.echo("L2 norm of the difference, averaged over the images (section 3.5 of the paper).")
