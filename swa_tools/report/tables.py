"""The tables of a report, for both the terminal and the page."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from swa_tools.report.facts import describe_epochs, describe_schedule
from swa_tools.report.groups import controls_of, replicates
from swa_tools.report.runs import RunData, ScoreLine, counts, kind_of
from swa_tools.statistics import wilson_interval

MOST_CAPTURES = 20
"""Runs with more captures show the first, the best and the last."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows of text.

    Attributes:
        columns: Titles of the columns; the first column names the rows.
        rows: Cells; empty if there is nothing to say.
        kinds: What each row is about, which decides its looks.
        caption: What all cells have in common.
        text_columns: Columns, other than the first, that hold words instead of numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    caption: str
    text_columns: frozenset[str] = frozenset()


def score_table(run: RunData, runs: Sequence[RunData] = (), *, whole: bool = False) -> Table:
    """Return the scores of a run and of its controls.

    Args:
        run: The run.
        runs: All runs of the report.
        whole: Whether to show all captures, however many there are.
    """
    scores = run.scores()
    for control in controls_of(run, runs):
        last = control.last("checkpoint")
        if last is not None:
            named = dataclasses.replace(last, name=f"control: {control.name}", kind="control")
            scores.insert(sum(score.kind == "start" for score in scores), named)
    if not whole:
        scores = _shortened(scores)
    sizes = {score.record.n_samples for score in scores} - {None}
    return Table(
        columns=("weights", "top-1 %", "95 %", "epoch", "top-5 %", "NLL", "ECE %", "images"),
        rows=tuple(_cells(score) for score in scores),
        kinds=tuple(score.kind for score in scores),
        caption="Top-1 with the 95 % interval of each score"
        + ("" if len(sizes) != 1 else f", on {sizes.pop():,} images")
        + "; to compare models on the same images, use the paired test of evaluate.",
    )


def provenance_table(run: RunData) -> Table:
    """Return the digest of every scored file and the state of its BatchNorm."""
    scores = run.scores()
    return Table(
        columns=("weights", "BatchNorm", "digest of the tensors"),
        rows=tuple(
            (score.name, score.record.bn or "", score.record.digest or "") for score in scores
        ),
        kinds=tuple(score.kind for score in scores),
        caption="Files with the same digest have the same tensors (swa-tools inspect --digest).",
        text_columns=frozenset({"BatchNorm", "digest of the tensors"}),
    )


def _cells(score: ScoreLine) -> tuple[str, ...]:
    record = score.record
    interval = ""
    if record.top1 is not None and record.n_samples:
        n_correct = record.top1 / 100 * record.n_samples
        low, high = wilson_interval(n_correct, record.n_samples)
        interval = f"{low:.2f} – {high:.2f}"
    return (
        score.name,
        _number(record.top1),
        interval,
        "" if record.epoch is None else f"{record.epoch:g}",
        _number(record.top5),
        _number(record.nll, digits=4),
        _number(record.ece),
        "" if record.n_samples is None else f"{record.n_samples:,}",
    )


def _shortened(scores: Sequence[ScoreLine]) -> list[ScoreLine]:
    """Keep the first, the best and the last of many captures."""
    captures = [score for score in scores if score.kind == "checkpoint"]
    if len(captures) <= MOST_CAPTURES:
        return list(scores)
    best = max(captures, key=lambda score: score.record.top1 or 0.0)
    kept = {id(captures[0]): "first", id(best): "best", id(captures[-1]): "last"}
    return [
        dataclasses.replace(
            score, name=f"{score.name} ({kept[id(score)]} of {len(captures)} captures)"
        )
        if id(score) in kept
        else score
        for score in scores
        if score.kind != "checkpoint" or id(score) in kept
    ]


def comparison_table(runs: Sequence[RunData]) -> Table:
    """Return several runs side by side; runs that differ only in the seed share a line.

    Such a line shows mean ± standard deviation over the runs (Tables 1 and 2 of the paper).
    """
    kinds = [k for k in COMPARED if any(run.last(k) is not None for run in runs)]
    rows = []
    for group in replicates(runs):
        scores = [mean_and_deviation(list(last_top1s(group, kind).values())) for kind in kinds]
        rows.append(
            (group_name(group), *scores, describe_epochs(group[0]), describe_schedule(group[0]))
        )
    caption = "Top-1 in percent; mean ± standard deviation if there are several seeds."
    if any(run.earlier is not None for run in runs):
        caption += " Epochs include those of the run that was continued (finetune --from)."
    return Table(
        columns=("run", *(COMPARED[kind] for kind in kinds), "epochs", "schedule"),
        rows=tuple(rows),
        kinds=("run",) * len(rows),
        caption=caption,
        text_columns=frozenset({"schedule"}),
    )


COMPARED = {
    "average": "average",
    "checkpoint": "last capture",
    "start": "start",
    "ema": "EMA",
    "soup": "soup",
    "ensemble": "ensemble",
}
"""Columns of the comparison by kind; the first ones show on a narrow screen without scrolling."""


def group_name(group: Sequence[RunData]) -> str:
    """Return a name for runs that differ only in the seed."""
    return group[0].name if len(group) == 1 else f"{group[0].name} ({len(group)} seeds)"


def last_top1s(runs: Sequence[RunData], kind: str) -> dict[str, float]:
    """Return the top-1 that counts for a kind, by the name of each run that has one."""
    found = {run.name: run.last(kind) for run in runs}
    return {
        name: score.record.top1
        for name, score in found.items()
        if score is not None and score.record.top1 is not None
    }


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return text such as `67.30 ± 0.21`, a single value as it is, or nothing without values."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def summary(run: RunData, runs: Sequence[RunData] = ()) -> str:
    """Say in a sentence or two how a run ended, for better or worse."""
    average, last = run.last("average"), run.last("checkpoint")
    if average is None:
        if last is None:
            return "Nothing was scored yet."
        return f"The last capture, {last.name}, has a top-1 of {_number(last.record.top1)} %."
    names = {r.checkpoint for r in run.records if kind_of(r) == "average" and counts(r)}
    of_several = f" (the newest of {len(names)})" if len(names) > 1 else ""
    text = f"The {average.name}{of_several} has a top-1 of {_number(average.record.top1)} %"
    parts = [_difference(points, what) for what, (points,) in _compared([run], runs).items()]
    return f"{text}: {', '.join(parts)}." if parts else f"{text}."


def comparison_summary(runs: Sequence[RunData]) -> str:
    """Say in a sentence what the averages of several runs reached (else their last captures)."""
    kind = "average" if any(run.last("average") is not None for run in runs) else "checkpoint"
    groups = [group for group in replicates(runs) if last_top1s(group, kind)]
    if not groups:
        return "Nothing was scored yet."
    if len(groups) == 1 and len(groups[0]) == 1:
        return f"{groups[0][0].name}: {summary(groups[0][0], runs)}"
    of_all = [run for group in groups for run in group if last_top1s([run], kind)]
    what = "averages" if kind == "average" else "last captures"
    if len(groups) == 1:
        values = list(last_top1s(of_all, kind).values())
        text = f"The {what} of {group_name(of_all)} have a top-1 of {mean_and_deviation(values)} %"
    else:
        means = [statistics.mean(last_top1s(group, kind).values()) for group in groups]
        best = groups[means.index(max(means))]
        text = f"The {what} of {len(groups)} kinds of run have a top-1 of {min(means):.2f} to"
        text += f" {max(means):.2f} %, highest for {group_name(best)}"
    parts = []
    compared = _compared(of_all, runs) if kind == "average" else {}
    for reference, differences in compared.items():
        n_above = sum(round(points, 2) > 0 for points in differences)
        parts.append(f"{n_above} of {len(differences)} are above {reference}")
    return f"{text}; {', '.join(parts)}." if parts else f"{text}."


def _compared(averaged: Sequence[RunData], runs: Sequence[RunData]) -> dict[str, list[float]]:
    """Return how many points averages lie above each of their references, by its name."""
    found: dict[str, list[float]] = {}
    for run in averaged:
        top1 = last_top1s([run], "average")[run.name]
        others = {"the start": (run, "start"), "the last capture": (run, "checkpoint")}
        for control in controls_of(run, runs):
            others[f"the control {control.name}"] = (control, "checkpoint")
        for what, (other, kind) in others.items():
            for value in last_top1s([other], kind).values():
                found.setdefault(what, []).append(top1 - value)
    return found


def _difference(points: float, what: str) -> str:
    if round(points, 2) == 0:
        return f"the same as {what}"
    return f"{abs(points):.2f} points {'above' if points > 0 else 'BELOW'} {what}"


def _number(value: float | None, *, digits: int = 2) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
