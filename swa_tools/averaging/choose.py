"""Which of the checkpoints to average: each once, the last, every second, the best by a metric."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from swa_tools.averaging.average import open_all
from swa_tools.averaging.same_weights import Duplicate, find_duplicates
from swa_tools.checkpoints import Checkpoint
from swa_tools.checkpoints.names import in_order
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.errors import CheckpointError, SwaToolsError
from swa_tools.options import COUNT, option
from swa_tools.run_directory import run_of_capture
from swa_tools.run_files import METRICS

SUMMARY_FILE = "summary.csv"
"""What timm's trainer writes beside its checkpoints."""

METRICS_FILE = "metrics.csv"
"""What Lightning's CSVLogger writes in the folder above its checkpoints."""

ADAPTER = re.compile(r"(?:^|[._])(?:lora_(?:A|B|a|b|up|down)|hada_w[12]|lokr_w[12])(?:[._]|$)")
"""In the names of the factors whose products a model adds to its weights."""

Order = Literal["name", "epoch", "time"]

_WHICH: dict[str, Any] = {"section": "Which checkpoints"}
_N: dict[str, Any] = {**_WHICH, "metavar": "N", "bounds": COUNT}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of a list of checkpoints to take; what is None does not restrict.

    `by` is applied first, then `every`, `top` last. What is taken stays in its order, and ties go
    to the later checkpoint.
    """

    by: Order | None = option(
        None,
        help="Order by the number in the name, by the epoch in the file, or by the file's time.",
        shown_default="as given; patterns and folders by name",
        **_WHICH,
    )
    every: int | None = option(None, help="Take every N-th, counted from the last.", **_N)
    first: int | None = option(None, help="Take the first N.", **_N)
    last: int | None = option(None, help="Take the last N.", **_N)
    top: int | None = option(None, help="Take the N best by --metric.", **_N)
    metric: str | None = option(
        None, help="top1, nll, eval_top1, … as its trainer wrote it.", **_WHICH, metavar="NAME"
    )
    lowest: bool = option(False, help="Low values of the metric are good.", **_WHICH)


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        paths: The checkpoints, each once, in order.
        duplicates: Those that hold the weights of another.
        notes: What the user should know of them, a line each.
    """

    paths: list[Path]
    duplicates: list[Duplicate]
    notes: list[str]


def choose(
    paths: Sequence[Path],
    selection: Selection,
    *,
    entry: str | None = None,
    keep_names: bool = False,
) -> Choice:
    """Choose among checkpoints, after those that repeat others have been dropped.

    The metric of a checkpoint is looked for in the file itself (safetensors metadata, a number
    beside the weights of a pickled file), in its run's `metrics.jsonl`, in its name (Lightning
    writes `epoch=3-val_loss=0.25.ckpt`), and by its epoch in the tables that timm's trainer and
    Lightning's CSVLogger write.

    Args:
        paths: Checkpoints in their order.
        selection: Which to take.
        entry: See `open_checkpoint`.
        keep_names: See `open_checkpoint`.

    Raises:
        SwaToolsError: There are fewer than were asked for, or one has no such metric or epoch.
        CheckpointError: One cannot be read.
    """
    with open_all(paths, entry=entry, keep_names=keep_names) as opened:
        duplicates = find_duplicates(opened)
        repeated = {id(duplicate.checkpoint) for duplicate in duplicates}
        kept = [checkpoint for checkpoint in opened if id(checkpoint) not in repeated]
        chosen = _select(_ordered(kept, selection), selection)
        notes = [*_order_note(kept, selection), *_notes(chosen)]
        return Choice([checkpoint.path for checkpoint in chosen], duplicates, notes)


def _ordered(checkpoints: list[Checkpoint], selection: Selection) -> list[Checkpoint]:
    if selection.by == "epoch":
        return sorted(checkpoints, key=_epoch)
    if selection.by == "time":
        return sorted(checkpoints, key=_time)
    if selection.by == "name":
        place = {name: i for i, name in enumerate(in_order([one.name for one in checkpoints]))}
        return sorted(checkpoints, key=lambda checkpoint: place[checkpoint.name])
    return checkpoints


def _time(checkpoint: Checkpoint) -> int:
    time = checkpoint.files[0].stat().st_mtime_ns
    if not time and isinstance(checkpoint.path, RemotePath):
        raise CheckpointError(f"{checkpoint.path}: --by time: its server does not say its time")
    return time


def _epoch(checkpoint: Checkpoint) -> float:
    if checkpoint.metadata is not None and checkpoint.metadata.training is not None:
        return checkpoint.metadata.training.epoch
    if not math.isfinite(checkpoint.numbers.get("epoch", math.nan)):
        raise CheckpointError(f"{checkpoint.path}: --by epoch: it does not say its epoch")
    return checkpoint.numbers["epoch"]


def _select(checkpoints: list[Checkpoint], selection: Selection) -> list[Checkpoint]:
    chosen = checkpoints
    if selection.every is not None:
        chosen = chosen[::-1][:: selection.every][::-1]
    for name in ("first", "last", "top"):
        n = getattr(selection, name)
        if n is not None and n > len(chosen):
            raise SwaToolsError(
                f"--{name} {n}: there are only {len(chosen)} checkpoints with different weights"
            )
        if n is not None:
            taken = {"first": chosen[:n], "last": chosen[-n:]}
            chosen = taken[name] if name in taken else _best(chosen, n, selection)
    return chosen


def _best(checkpoints: list[Checkpoint], n: int, selection: Selection) -> list[Checkpoint]:
    if selection.metric is None:
        raise SwaToolsError("--top: by what? name the metric with --metric")
    sign = 1 if selection.lowest else -1
    values = [sign * _value(checkpoint, selection.metric) for checkpoint in checkpoints]
    order = sorted(range(len(checkpoints)), key=lambda i: (values[i], -i))
    return [checkpoints[i] for i in sorted(order[:n])]


def _order_note(checkpoints: list[Checkpoint], selection: Selection) -> list[str]:
    """Say so where files were not given in the order of their numbers, as an unquoted glob is."""
    by_position = selection.every or selection.first or selection.last
    names = [checkpoint.name for checkpoint in checkpoints]
    if not by_position or selection.by is not None or names == in_order(names):
        return []
    note = (
        "the checkpoints are in the order in which they were given, not in that of their numbers;"
        " --by name sorts them, as a quoted pattern does"
    )
    return [note]


def _notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return what the user should know, a line for each note that some of the files share."""
    by_note: dict[str, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        for note in checkpoint.notes:
            by_note.setdefault(note, []).append(checkpoint)
    lines = []
    for note, having in by_note.items():
        more = f" and {len(having) - 1} more" if len(having) > 1 else ""
        lines.append(f"{having[0].path}{more}: {note}")
    if any(ADAPTER.search(name) for name in checkpoints[0].tensors):
        lines.append(
            f"{checkpoints[0].path}: its tensors are factors of an adapter (LoRA and its like), and"
            " the mean of factors is not the mean of their products: merge each adapter into its"
            " model first (peft's merge_and_unload) and average the models"
        )
    return lines


def _value(checkpoint: Checkpoint, metric: str) -> float:
    path = checkpoint.path
    value = checkpoint.numbers.get(metric)
    for look in (_from_records, _from_name, _from_timm, _from_lightning):
        value = look(checkpoint, metric) if value is None else value
    if value is None or not math.isfinite(value):
        raise CheckpointError(
            f"{path}: no metric {metric!r} for it: looked in the file and its name, in its run's"
            f" {METRICS}, and in the {SUMMARY_FILE} or {METRICS_FILE} of its trainer, found {value}"
        )
    return value


def _from_records(checkpoint: Checkpoint, metric: str) -> float | None:
    run = run_of_capture(checkpoint.path)
    value = None
    for record in [] if run is None else run.read_metrics():
        if record.checkpoint == checkpoint.name:
            found = getattr(record, metric, None)
            value = found if isinstance(found, int | float) else value
    return value


def _from_name(checkpoint: Checkpoint, metric: str) -> float | None:
    """Read Lightning's `epoch=3-val_loss=0.25.ckpt`, which says nothing of `loss`."""
    number = r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
    found = re.search(rf"(?:^|-|(?<=\d)_){re.escape(metric)}=({number})", checkpoint.name)
    return None if found is None else float(found[1])


def _from_timm(checkpoint: Checkpoint, metric: str) -> float | None:
    """Read timm's table; its `checkpoint-12.pth.tar` was saved after epoch 12."""
    number = re.search(r"(\d+)\.", checkpoint.name)
    table = checkpoint.path.parent / SUMMARY_FILE
    return None if number is None else _from_table(table, int(number[1]), metric)


def _from_lightning(checkpoint: Checkpoint, metric: str) -> float | None:
    epoch = checkpoint.numbers.get("epoch")
    table = checkpoint.path.parent.parent / METRICS_FILE
    return None if epoch is None else _from_table(table, int(epoch), metric)


def _from_table(table: Path, epoch: int, metric: str) -> float | None:
    """Return the last value of a metric in an epoch; Lightning leaves cells of a row empty."""
    if not table.exists():
        return None
    try:
        text = io.StringIO(table.read_bytes().decode("utf-8"), newline="")
        rows = [row for row in csv.DictReader(text) if float(row["epoch"]) == epoch]
        values = [float(row[metric]) for row in rows if row.get(metric)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{table}: not the table of a trainer: {error}") from error
    return values[-1] if values else None
