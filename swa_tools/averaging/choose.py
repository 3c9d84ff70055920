"""Which of the checkpoints to average: the last, every second, the best by a metric."""

import csv
import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swa_tools.checkpoints import open_checkpoint
from swa_tools.errors import CheckpointError, SwaToolsError
from swa_tools.options import COUNT, option
from swa_tools.run_directory import run_of_capture
from swa_tools.run_files import METRICS

SUMMARY_FILE = "summary.csv"
_WHICH: dict[str, Any] = {"section": "Which checkpoints"}
_N: dict[str, Any] = {**_WHICH, "metavar": "N", "bounds": COUNT}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of a list of checkpoints to take; what is None does not restrict.

    `every` is applied first, `top` last: what is taken stays in its order, and ties go to the later
    checkpoint.
    """

    every: int | None = option(None, help="Take every N-th, counted from the last.", **_N)
    first: int | None = option(None, help="Take the first N.", **_N)
    last: int | None = option(None, help="Take the last N.", **_N)
    top: int | None = option(None, help="Take the N best by --metric.", **_N)
    metric: str | None = option(
        None, help="top1, nll, eval_top1, … as its trainer wrote it.", **_WHICH, metavar="NAME"
    )
    lowest: bool = option(False, help="Low values of the metric are good.", **_WHICH)


def select(paths: Sequence[Path], selection: Selection, *, entry: str | None = None) -> list[Path]:
    """Choose among checkpoints.

    The metric of a checkpoint is looked up in the file itself (safetensors metadata, a number
    beside the weights of a pickled file), in its run's `metrics.jsonl`, and in the `summary.csv`
    that timm's trainer leaves beside its checkpoints, by epoch.

    Args:
        paths: Checkpoints in their order.
        selection: Which to take.
        entry: Which weights to take from pickled files that hold several.

    Raises:
        SwaToolsError: There are fewer than were asked for, or one has no such metric.
    """
    chosen = list(paths)
    if selection.every is not None:
        chosen = chosen[::-1][:: selection.every][::-1]
    if selection.first is not None:
        _check_enough(chosen, "first", selection.first)
        chosen = chosen[: selection.first]
    if selection.last is not None:
        _check_enough(chosen, "last", selection.last)
        chosen = chosen[-selection.last :]
    if selection.top is not None:
        _check_enough(chosen, "top", selection.top)
        if selection.metric is None:
            raise SwaToolsError("--top: by what? name the metric with --metric")
        sign = 1 if selection.lowest else -1
        values = [sign * _value(path, selection.metric, entry) for path in chosen]
        order = sorted(range(len(chosen)), key=lambda i: (values[i], -i))
        chosen = [chosen[i] for i in sorted(order[: selection.top])]
    return chosen


def _check_enough(paths: Sequence[Path], option: str, n: int) -> None:
    if n > len(paths):
        raise SwaToolsError(f"--{option} {n}: there are only {len(paths)} checkpoints")


def _value(path: Path, metric: str, entry: str | None) -> float:
    with open_checkpoint(path, entry=entry) as checkpoint:
        value = checkpoint.numbers.get(metric)
    if value is None:
        value = _from_records(path, metric)
    if value is None:
        value = _from_summary(path, metric)
    if value is None or not math.isfinite(value):
        raise CheckpointError(
            f"{path}: no metric {metric!r} for it: looked in the file, in its run's {METRICS}"
            f" and in {SUMMARY_FILE} beside it, found {value}"
        )
    return value


def _from_records(path: Path, metric: str) -> float | None:
    run = run_of_capture(path)
    value = None
    for record in [] if run is None else run.read_metrics():
        if record.checkpoint == path.name:
            found = getattr(record, metric, None)
            value = found if isinstance(found, int | float) else value
    return value


def _from_summary(path: Path, metric: str) -> float | None:
    """Read timm's table; its `checkpoint-12.pth.tar` was saved after epoch 12."""
    table = path.parent / SUMMARY_FILE
    number = re.search(r"(\d+)\.", path.name)
    if number is None or not table.exists():
        return None
    try:
        with open(table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if int(row["epoch"]) == int(number[1]) and metric in row:
                    return float(row[metric])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{table}: not a summary of timm's trainer: {error}") from error
    return None
