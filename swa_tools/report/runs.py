"""What a run directory holds: the run's description, its records, its measurements."""

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from swa_tools.errors import SwaToolsError
from swa_tools.measurements import Numbers, read_numbers
from swa_tools.records import Record, read_records
from swa_tools.report.lineage import Earlier, earlier_of, start_digest
from swa_tools.run_directory import RunDirectory, options_in
from swa_tools.run_files import START

COMBINED = frozenset({"average", "soup", "ensemble"})
"""Kinds of which the newest score counts; of the others, the last in the run counts."""

_SWEPT = re.compile(r"(first|last)-(\d+)(?:\.safetensors)?")
"""Names of the running averages that a sweep scores."""

_NATURAL = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoreLine:
    """One line of a run's table.

    Attributes:
        name: What readers know the scored weights by.
        kind: `start`, `checkpoint`, `ema`, `average`, `soup`, `ensemble` or `control`.
        record: The score.
    """

    name: str
    kind: str
    record: Record


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """A run as a report sees it.

    Attributes:
        path: Its folder.
        name: The run's name on the page.
        description: The contents of `run.json`; empty if there is none.
        records: Records of training, then those of everything scored later.
        numbers: Measurements of the loss surface found in the folder.
        earlier: The run that it continues; None if it continues none.
        notices: A line for each thing that was found but left out.
    """

    path: Path
    name: str
    description: dict[str, Any]
    records: tuple[Record, ...]
    numbers: tuple[Numbers, ...]
    earlier: Earlier | None
    notices: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The options of `finetune`; empty if unknown."""
        return options_in(self.description)

    @property
    def plan(self) -> dict[str, Any]:
        """What the run planned to do; empty if unknown."""
        found = self.description.get("plan")
        return found if isinstance(found, dict) else {}

    @property
    def n_captures(self) -> int:
        """Number of checkpoints that the run takes."""
        return len(self.plan.get("captures", ()))

    @property
    def n_epochs(self) -> float | None:
        """Length of the run in epochs; None if unknown."""
        found = self.plan.get("n_epochs")
        return float(found) if isinstance(found, int | float) else None

    @property
    def epochs_before(self) -> float | None:
        """Length of what it continues, in epochs; None if unknown."""
        return 0.0 if self.earlier is None else self.earlier.epochs_in_all

    @property
    def epochs_in_all(self) -> float | None:
        """Length plus that of what it continues, in epochs; None if unknown."""
        before, own = self.epochs_before, self.n_epochs
        return None if before is None or own is None else before + own

    @property
    def start_digest(self) -> str | None:
        """Digest of the weights that it started from; None if unknown."""
        return start_digest(self.records)

    @property
    def origin(self) -> str | None:
        """Digest of the weights that it, or the first of the runs it continues, started from."""
        return self.start_digest if self.earlier is None else self.earlier.origin

    def scores(self) -> list[ScoreLine]:
        """Return the lines of its table: start, captures, EMA, averages, soups, ensemble."""
        latest: dict[tuple[Any, ...], ScoreLine] = {}
        for record in self.records:
            kind = kind_of(record)
            if record.top1 is None or kind is None or kind == "sweep":
                continue
            # Each thing has one line, even if it was scored during the run and again at the end.
            key = (kind, record.checkpoint, record.bn == "stale", record.split, record.n_samples)
            latest[key] = ScoreLine(name=score_name(record, kind), kind=kind, record=record)
        return sorted(latest.values(), key=_place)

    def last(self, kind: str) -> ScoreLine | None:
        """Return the score that counts for a kind; None if there is none.

        For averages, soups and ensembles it is the newest, for the others the last in the run. Only
        scores on validation images without stale BatchNorm count.
        """
        if kind in COMBINED:
            record = newest(self.records, kind)
            return (
                None
                if record is None
                else ScoreLine(name=score_name(record, kind), kind=kind, record=record)
            )
        found = [score for score in self.scores() if score.kind == kind and counts(score.record)]
        return found[-1] if found else None


def counts(record: Record) -> bool:
    """Tell whether a record is a score on validation images without stale BatchNorm."""
    return record.top1 is not None and record.split != "train" and record.bn != "stale"


def newest(records: Iterable[Record], kind: str) -> Record | None:
    """Return the newest score of a kind that `counts`; None if there is none.

    Args:
        records: Records in the order in which they were written.
        kind: A kind that `kind_of` returns.
    """
    found = [record for record in records if kind_of(record) == kind and counts(record)]
    return found[-1] if found else None


def load_run(path: Path, *, name: str | None = None, others: Sequence[Path] = ()) -> RunData:
    """Read a run directory: `run.json`, the records, and the `.npz` files in it.

    An `.npz` that is not ours is left out with a notice.

    Args:
        path: The folder.
        name: The run's name; the folder's name by default.
        others: Folders that may be the run that this one continues.

    Raises:
        SwaToolsError: The folder holds no records of a run, or a file is broken.
    """
    if not path.is_dir():
        raise SwaToolsError(f"{path}: no such run; expected a folder that finetune wrote")
    directory = RunDirectory(path)
    # In this order: if one thing was scored twice, the later score counts.
    expected = (directory.metrics, directory.results)
    files = [file for file in expected if file.exists()]
    if not files:
        names = " or ".join(file.name for file in expected)
        raise SwaToolsError(f"{path}: nothing to report; expected {names} in this folder")
    description = directory.read_description()
    records = tuple(record for file in files for record in read_records(file))
    numbers, notices = _read_all_numbers(path)
    return RunData(
        path=path,
        name=name or path.resolve().name,
        description=description,
        records=records,
        numbers=tuple(numbers),
        earlier=earlier_of(path, description, start=start_digest(records), others=others),
        notices=tuple(notices),
    )


def _read_all_numbers(folder: Path) -> tuple[list[Numbers], list[str]]:
    """Return the measurements in a folder, and notices about the other `.npz` files there."""
    numbers, notices = [], []
    for file in [*sorted(folder.glob("*.npz")), *sorted(folder.glob("landscape/*.npz"))]:
        try:
            numbers.append(read_numbers(file))
        except SwaToolsError as error:
            notices.append(f"left out of the report: {error}")
    return numbers, notices


def load_runs(paths: Sequence[Path]) -> list[RunData]:
    """Read run directories; runs that share a name are named by their paths.

    Raises:
        SwaToolsError: As from `load_run`, or one is given twice.
    """
    real = [path.resolve() for path in paths]
    for number, path in enumerate(real):
        if path in real[:number]:
            raise SwaToolsError(f"{paths[number]}: this run is given twice; name each run once")
    names = [path.name for path in real]
    if len(set(names)) < len(names):
        folder = os.path.commonpath(real) if len(real) > 1 else "/"
        names = [os.path.relpath(path, folder) for path in real]
    return [load_run(path, name=name, others=real) for path, name in zip(paths, names, strict=True)]


def kind_of(record: Record) -> str | None:
    """Return the kind of what a record scores.

    None for weights between two captures, and for a record without a score.
    """
    if record.event != "evaluation":
        return None
    if record.checkpoint == START:
        return "start"
    if record.kind in (None, "checkpoint") and record.checkpoint is None:
        return None
    if record.kind == "average" and _SWEPT.fullmatch(record.checkpoint or ""):
        return "sweep"
    return record.kind or "checkpoint"


def windows_of(run: RunData) -> dict[str, list[tuple[int, float, int]]]:
    """Return what a sweep scored: (captures, top-1, images) of the first n and of the last n."""
    windows: dict[str, dict[int, tuple[int, float, int]]] = {}
    for record in run.records:
        match = _SWEPT.fullmatch(record.checkpoint or "")
        if match and kind_of(record) == "sweep" and record.top1 is not None and record.n_samples:
            n = int(match[2])
            point = (n, record.top1, record.n_samples)
            windows.setdefault(f"{match[1]} n", {})[n] = point
    return {name: [points[n] for n in sorted(points)] for name, points in windows.items()}


def score_name(record: Record, kind: str) -> str:
    """Return the name of a score for readers, such as `average swa (stale BatchNorm)`."""
    name = (record.checkpoint or kind).removesuffix(".safetensors")
    if kind in ("average", "soup", "ema") and name != kind:
        name = f"{kind} {name}"
    notes = [note for note, is_so in _notes(record).items() if is_so]
    return f"{name} ({', '.join(notes)})" if notes else name


def _notes(record: Record) -> dict[str, bool]:
    return {
        "stale BatchNorm": record.bn == "stale",
        "training images": record.split == "train",
    }


_ORDER = ("start", "control", "checkpoint", "ema", "average", "soup", "ensemble")


def _place(score: ScoreLine) -> tuple[Any, ...]:
    """Return the sort key of a line: training images last, then by kind, stale first, then name."""
    kind = _ORDER.index(score.kind) if score.kind in _ORDER else len(_ORDER)
    record = score.record
    parts = _NATURAL.split(score.name)
    natural = [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
    return record.split == "train", kind, record.bn != "stale", natural
