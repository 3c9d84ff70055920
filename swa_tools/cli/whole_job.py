"""`average --data` and `finetune --then-average`: average, recompute BatchNorm, evaluate."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.output import command_line, notice, number, print_json, print_table
from swa_tools.cli.recording import recording
from swa_tools.cli.shared_options import OutcomeOptions

if TYPE_CHECKING:
    from swa_tools.averaging import AverageOptions
    from swa_tools.data import ImageSet
    from swa_tools.records import Record
    from swa_tools.run_directory import RunDirectory
    from swa_tools.selection import ScoredAverage, Setting


def average_recompute_evaluate(
    paths: Sequence[Path],
    output: Path,
    *,
    average: "AverageOptions",
    setting: "Setting",
    val: "ImageSet | None",
    outcome: OutcomeOptions,
) -> None:
    """Do the whole job over checkpoints, record the scores and print them.

    Args:
        paths: The checkpoints.
        output: Safetensors file to write.
        average: How to average.
        setting: What the average is made ready with.
        val: Images to score on; None to score nothing.
        outcome: Where the results go.
    """
    from swa_tools.run_directory import common_run
    from swa_tools.selection import average_and_score

    run = common_run(paths)
    captures = [] if run is None else _scores_of(run, paths)
    scored = average_and_score(
        paths,
        output,
        average=average,
        setting=setting,
        val=val,
        reference=_reference(paths, captures),
    )
    if not setting.context.is_main:
        return
    for line in scored.recomputation.notices():
        notice(line)
    n_skipped = scored.recomputation.n_skipped + (scored.scores.n_skipped if scored.scores else 0)
    if n_skipped:
        notice(f"{n_skipped} images could not be read and were left out")
    if scored.scores is None:
        notice("no validation images: the average is not scored")
        _print_unscored(scored, output, as_json=outcome.as_json)
        return
    record = scored.scores.records(split="val", command=command_line())[0]
    with recording([record], outcome.results, paths=paths):
        if outcome.as_json:
            print_json(_document(scored))
        else:
            _print(scored, record, run=run)
        for line in verdicts(scored, paths, captures, run=run):
            notice(line)


def _reference(paths: Sequence[Path], captures: "Sequence[Record]") -> Path | None:
    """Return what the average is compared with: the best capture, else the last checkpoint."""
    if len(paths) < 2:
        return None
    if not captures:
        return paths[-1]
    best = max(captures, key=lambda record: record.top1 or 0)
    return next(path for path in paths if path.name == best.checkpoint)


def _scores_of(run: "RunDirectory", paths: Sequence[Path]) -> "list[Record]":
    """Return how a run scored those of its captures that are averaged."""
    names = {path.name for path in paths if path.absolute().parent == run.checkpoints}
    return [
        record
        for record in _validations(run)
        if record.kind == "checkpoint" and record.checkpoint in names
    ]


def _validations(run: "RunDirectory") -> "list[Record]":
    """Return what a run scored itself: its start and its captures, on validation images."""
    return [
        record
        for record in run.read_metrics()
        if record.event == "evaluation"
        and record.checkpoint
        and record.kind in ("start", "checkpoint")
        and record.top1 is not None
    ]


def verdicts(
    scored: "ScoredAverage",
    paths: Sequence[Path],
    captures: "Sequence[Record]",
    *,
    run: "RunDirectory | None",
) -> Iterator[str]:
    """Say where the average is worse than it could be, and what to do about it."""
    is_worse_than_stale = scored.is_worse_than(scored.stale)
    if is_worse_than_stale and scored.stale is not None:
        view = scored.recomputation.conditions.view
        other = "training" if view.crop == "evaluation" else "evaluation"
        yield (
            f"the recompute of BatchNorm costs {_points(scored, scored.stale)}: the averaged"
            f" statistics are better (p {_p_value(scored, scored.stale)}). Its images may not be"
            f" what the network was trained on: try --view {other}; examples/bn_ablation.py"
            " compares all ways"
        )
    if scored.is_worse_than(scored.reference) and scored.reference is not None:
        yield (
            f"the average is {_points(scored, scored.reference)} below {scored.reference}"
            f" (p {_p_value(scored, scored.reference)})"
            + ("" if is_worse_than_stale else "; fewer checkpoints (--last N) may be better")
        )
    if run is not None and _is_rising(captures) and _moves_on(paths):
        folder = shlex.quote(str(run.path))
        yield (
            f"the run is still descending: its captures rise from {captures[0].top1:.2f} to"
            f" {captures[-1].top1:.2f} % and move on through weight space (swa-tools trajectory"
            f" {folder}), so that early ones hold the average back. Train on, or average the last"
            f" few: swa-tools sweep {folder} --data DIR scores the last 1, 2, …"
        )


def _points(scored: "ScoredAverage", name: str) -> str:
    difference = scored.score_of(name).top1 - scored.output.score.top1
    return f"{difference:.2f} points of top-1"


def _p_value(scored: "ScoredAverage", name: str) -> str:
    assert scored.scores is not None  # noqa: S101 -- only what was scored is compared
    p_value = scored.scores.evaluation.p_value(scored.output.name, name)
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _is_rising(captures: "Sequence[Record]") -> bool:
    """Tell whether the last capture is better than the first by more than chance (95 %)."""
    if len(captures) < 3 or captures[0].top1 is None or captures[-1].top1 is None:
        return False
    first, last = captures[0].top1 / 100, captures[-1].top1 / 100
    variance = (first * (1 - first) + last * (1 - last)) / max(1, captures[-1].n_samples or 1)
    return last - first > 1.96 * math.sqrt(variance)


def _moves_on(paths: Sequence[Path]) -> bool:
    from swa_tools.landscape.trajectory import MIN_CAPTURES, is_exploring, trajectory

    return len(paths) >= MIN_CAPTURES and not is_exploring(trajectory(paths))


def _print(scored: "ScoredAverage", record: "Record", *, run: "RunDirectory | None") -> None:
    earlier = [] if run is None else _validations(run)
    rows = [
        [
            one.checkpoint or "",
            "" if one.epoch is None else f"{one.epoch:g}",
            *_cells(one),
            _compared(scored, one.checkpoint or ""),
        ]
        for one in earlier
    ]
    if scored.reference is not None and scored.reference not in {row[0] for row in rows}:
        score = scored.score_of(scored.reference)
        rows.append([scored.reference, "", *_cells(score), _compared(scored, scored.reference)])
    name = scored.output.path.name
    if scored.stale is not None:
        score = scored.score_of(scored.stale)
        rows.append([f"{name} (stale)", "", *_cells(score), _compared(scored, scored.stale)])
    rows.append([name, "", *_cells(record), ""])
    caption = f"{scored.output.score.n_samples:,} images of val"
    if earlier:
        caption += "; start and captures as the run scored them"
    print_table(["checkpoint", "epoch", "top-1 %", "top-5 %", "nll", "p"], rows, caption=caption)
    if scored.stale is not None:
        click.echo(
            "stale: the average with averaged BatchNorm statistics, not recomputed ones.\n"
            f"p: McNemar's test against {name}, on the same images."
        )


def _cells(score: Any) -> list[str]:
    return [number(score.top1), number(score.top5), number(score.nll, digits=4)]


def _compared(scored: "ScoredAverage", name: str) -> str:
    if name not in (scored.stale, scored.reference):
        return ""
    return _p_value(scored, name).removeprefix("= ")


def _document(scored: "ScoredAverage") -> dict[str, Any]:
    document = {
        **_facts(scored),
        "path": str(scored.output.path),
        "digest": scored.output.digest,
        **dataclasses.asdict(scored.output.score),
    }
    for title, name in (("stale", scored.stale), ("reference", scored.reference)):
        if name is not None and scored.scores is not None:
            p_value = scored.scores.evaluation.p_value(scored.output.name, name)
            score = dataclasses.asdict(scored.score_of(name))
            document[title] = {"name": name, **score, "p_value": p_value}
    return document


def _facts(scored: "ScoredAverage") -> dict[str, Any]:
    average = scored.average.metadata.average if scored.average is not None else None
    return {
        "bn": dataclasses.asdict(scored.recomputation.bn),
        "n_sources": len(average.sources) if average is not None else 0,
    }


def _print_unscored(scored: "ScoredAverage", output: Path, *, as_json: bool) -> None:
    facts = _facts(scored)
    if as_json:
        print_json({"path": str(output), **facts})
        return
    recomputed = "" if facts["bn"]["state"] == "none" else ", BatchNorm recomputed"
    click.echo(f"{output}: the average of {facts['n_sources']} checkpoints{recomputed}")
