"""The tables of a report, for a terminal and for the page alike."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from swa_tools.report.intervals import top1_interval
from swa_tools.report.runs import RunData, Score, controls_of, replicates

MOST_CAPTURES = 20
"""Runs with more captures show the first, the best and the last."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows of text.

    Attributes:
        columns: Titles; the first column names the rows.
        rows: Cells, empty where there is nothing to say.
        kinds: What each row is about, for its looks.
        caption: What all cells have in common.
        text_columns: Those besides the first that hold words instead of numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    caption: str
    text_columns: frozenset[str] = frozenset()


def score_table(run: RunData, runs: Sequence[RunData] = (), *, whole: bool = False) -> Table:
    """Return the scores of a run, those of its controls among them.

    Args:
        run: The run.
        runs: All runs of the report.
        whole: Whether all captures are shown, however many there are.
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
        columns=("weights", "epoch", "top-1 %", "95 %", "top-5 %", "NLL", "ECE %", "images"),
        rows=tuple(_cells(score) for score in scores),
        kinds=tuple(score.kind for score in scores),
        caption="Top-1 with the 95 % interval of each score by itself"
        + ("" if len(sizes) != 1 else f", on {sizes.pop():,} images")
        + "; models on the same images are told apart by a paired test (evaluate).",
    )


def provenance_table(run: RunData) -> Table:
    """Return of every scored file what it was: its digest and the state of its BatchNorm."""
    scores = run.scores()
    return Table(
        columns=("weights", "BatchNorm", "digest of the tensors"),
        rows=tuple(
            (score.name, score.record.bn or "", score.record.digest or "") for score in scores
        ),
        kinds=tuple(score.kind for score in scores),
        caption="Files with the same digest hold the same tensors (swa-tools inspect --digest).",
        text_columns=frozenset({"BatchNorm", "digest of the tensors"}),
    )


def _cells(score: Score) -> tuple[str, ...]:
    record = score.record
    interval = ""
    if record.top1 is not None and record.n_samples:
        low, high = top1_interval(record.top1, record.n_samples)
        interval = f"{low:.2f} – {high:.2f}"
    return (
        score.name,
        "" if record.epoch is None else f"{record.epoch:g}",
        _number(record.top1),
        interval,
        _number(record.top5),
        _number(record.nll, digits=4),
        _number(record.ece),
        "" if record.n_samples is None else f"{record.n_samples:,}",
    )


def _shortened(scores: Sequence[Score]) -> list[Score]:
    """Leave of many captures the first, the best and the last."""
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
    """Return several runs side by side; runs that differ in the seed alone share a line.

    Such a line holds mean ± standard deviation over the runs (Tables 1 and 2 of the paper).
    """
    kinds = [k for k in COMPARED if any(run.last(k) is not None for run in runs)]
    rows = []
    for group in replicates(runs):
        first = group[0]
        cells = [
            first.name if len(group) == 1 else f"{first.name} + {len(group) - 1} more seeds",
            "" if first.n_epochs is None else f"{first.n_epochs:g}",
        ]
        for kind in kinds:
            found = [score.record.top1 for run in group if (score := run.last(kind)) is not None]
            cells.append(mean_and_deviation([top1 for top1 in found if top1 is not None]))
        rows.append((*cells, describe_schedule(first)))
    return Table(
        columns=("run", "epochs", *(COMPARED[kind] for kind in kinds), "schedule"),
        rows=tuple(rows),
        kinds=("run",) * len(rows),
        caption="Top-1 in percent; over several seeds mean ± standard deviation.",
        text_columns=frozenset({"schedule"}),
    )


COMPARED = {
    "start": "start",
    "checkpoint": "last capture",
    "ema": "EMA",
    "average": "average",
    "soup": "soup",
    "ensemble": "ensemble",
}
"""Columns of the comparison by kind."""


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return `67.30 ± 0.21`, a single value by itself, nothing for none."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def describe_schedule(run: RunData) -> str:
    """Return the schedule in a few words: `sawtooth 0.05 → 0.0005, 10 cycles`."""
    plan = run.plan
    schedule = plan.get("schedule")
    if not isinstance(schedule, dict):
        return ""
    highest, lowest = schedule.get("lr_max"), schedule.get("lr_min")
    text = str(schedule.get("name", ""))
    if highest is not None:
        text += f" {highest:g}" + ("" if lowest is None else f" → {lowest:g}")
    steps, per_epoch = schedule.get("cycle_steps"), plan.get("steps_per_epoch")
    if steps and per_epoch:
        epochs = steps / per_epoch
        text += f", cycle {epochs:.3g} epoch{'s' if epochs != 1 else ''}"
    return text


def summary(run: RunData, runs: Sequence[RunData] = ()) -> str:
    """Say in a sentence or two what came out of a run, whichever way it went."""
    average, start = run.last("average"), run.last("start")
    if average is None or average.record.top1 is None:
        last = run.last("checkpoint")
        if last is None or last.record.top1 is None:
            return "Nothing was scored yet."
        return f"The last checkpoint, {last.name}, has a top-1 of {last.record.top1:.2f} %."
    top1 = average.record.top1
    text = f"The {average.name} has a top-1 of {top1:.2f} %"
    compared: list[tuple[str, float | None]] = []
    if start is not None:
        compared.append(("the start", start.record.top1))
    last = run.last("checkpoint")
    if last is not None:
        compared.append(("the last capture", last.record.top1))
    for control in controls_of(run, runs):
        found = control.last("checkpoint")
        if found is not None:
            compared.append((f"the control {control.name}", found.record.top1))
    parts = [_difference(top1 - other, what) for what, other in compared if other is not None]
    return f"{text}: {', '.join(parts)}." if parts else f"{text}."


def _difference(points: float, what: str) -> str:
    if round(points, 2) == 0:
        return f"as {what}"
    return f"{abs(points):.2f} points {'above' if points > 0 else 'BELOW'} {what}"


def _number(value: float | None, *, digits: int = 2) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def facts(run: RunData) -> list[tuple[str, str]]:
    """Return what a run was, as pairs of a title and a text; only what is known."""
    options, plan, hardware = run.options, run.plan, _part(run, "hardware")
    versions = _part(run, "versions")
    optimizer = [options.get("optimizer"), _named("momentum", options), _named("nesterov", options)]
    known = {
        "model": _part(run, "model").get("name"),
        "start": options.get("from_run") or options.get("checkpoint") or _pretrained(options),
        "images": options.get("data") or options.get("train_dir"),
        "training images": _count(plan.get("n_images")),
        "epochs": plan.get("n_epochs"),
        "steps": _count(plan.get("n_steps")),
        "batch": plan.get("batch_size"),
        "schedule": describe_schedule(run),
        "optimizer": ", ".join(str(part) for part in optimizer if part),
        "weight decay": options.get("weight_decay"),
        "seed": options.get("seed"),
        "device": hardware.get("device"),
        "processes": hardware.get("world_size"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(title, _text(value)) for title, value in known.items() if value not in (None, "")]


def _part(run: RunData, name: str) -> dict[str, Any]:
    found = run.description.get(name)
    return found if isinstance(found, dict) else {}


def _pretrained(options: dict[str, Any]) -> str | None:
    if "pretrained" not in options:
        return None
    return "the library's weights" if options["pretrained"] else "random weights"


def _named(name: str, options: dict[str, Any]) -> str | None:
    value = options.get(name)
    if value is True:
        return name
    return f"{name} {value:g}" if isinstance(value, float) else None


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
