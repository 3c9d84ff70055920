"""What a run directory has to say: what it was, its records, its measurements."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from swa_tools.errors import SwaToolsError
from swa_tools.records import Record, read_records
from swa_tools.report.numbers import Numbers, read_numbers

START_FILE = "start.safetensors"

RECORD_FILES = ("metrics.jsonl", "results.jsonl")
"""In this order: of two scores of one thing the later one counts."""

NOT_THE_EXPERIMENT = frozenset(
    {"device", "workers", "log_every", "resume_every", "validate_every", "compile", "channels_last"}
)
"""Options that change how a run is computed or watched, not what it is."""

START_OPTIONS = frozenset({"checkpoint", "from_run"})

_SWEPT = re.compile(r"(first|last)-(\d+)(?:\.safetensors)?")
"""Names of the running averages that a sweep scores."""

_NATURAL = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One line of a run's table.

    Attributes:
        name: What was scored, for people.
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
        name: What it is called on the page.
        description: `run.json`, empty where there is none.
        records: Of training, then of everything scored later.
        numbers: Measurements of the loss surface found in the folder.
    """

    path: Path
    name: str
    description: dict[str, Any]
    records: tuple[Record, ...]
    numbers: tuple[Numbers, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The options of `finetune`; empty where they are not known."""
        found = self.description.get("options")
        return found if isinstance(found, dict) else {}

    @property
    def plan(self) -> dict[str, Any]:
        """What the run was going to do; empty where it is not known."""
        found = self.description.get("plan")
        return found if isinstance(found, dict) else {}

    @property
    def n_captures(self) -> int:
        """Checkpoints that the run takes."""
        return len(self.plan.get("captures", ()))

    @property
    def n_epochs(self) -> float | None:
        """Length of the run; None where it is not known."""
        found = self.plan.get("n_epochs")
        return float(found) if isinstance(found, int | float) else None

    def scores(self) -> list[Score]:
        """Return the lines of its table: start, captures, EMA, averages, soups, ensemble."""
        latest: dict[tuple[Any, ...], Score] = {}
        for record in self.records:
            kind = kind_of(record)
            if record.top1 is None or kind is None or kind == "sweep":
                continue
            # One thing has one line, also where it was scored on its way and at the end again.
            key = (kind, record.checkpoint, record.bn == "stale", record.split, record.n_samples)
            latest[key] = Score(name=_name(record, kind), kind=kind, record=record)
        return sorted(latest.values(), key=_place)

    def last(self, kind: str) -> Score | None:
        """Return the last line of a kind on validation images, BatchNorm in order; None if none."""
        found = [
            score
            for score in self.scores()
            if score.kind == kind and score.record.split != "train" and score.record.bn != "stale"
        ]
        return found[-1] if found else None


def load_run(path: Path, *, name: str | None = None) -> RunData:
    """Read a run directory: `run.json`, the records, and the `.npz` files in it.

    Raises:
        SwaToolsError: There is nothing of a run in it, or a file is broken.
    """
    if not path.is_dir():
        raise SwaToolsError(f"{path}: no such run: expected a folder that finetune wrote")
    files = [path / file for file in RECORD_FILES if (path / file).exists()]
    if not files:
        raise SwaToolsError(
            f"{path}: nothing to report: expected {' or '.join(RECORD_FILES)} in it"
        )
    numbers = [*sorted(path.glob("*.npz")), *sorted(path.glob("landscape/*.npz"))]
    return RunData(
        path=path,
        name=name or path.resolve().name,
        description=_read_description(path / "run.json"),
        records=tuple(record for file in files for record in read_records(file)),
        numbers=tuple(read_numbers(file) for file in numbers),
    )


def load_runs(paths: Sequence[Path]) -> list[RunData]:
    """Read run directories; those of the same name are called by their paths.

    Raises:
        SwaToolsError: As `load_run`, or one is given twice.
    """
    real = [path.resolve() for path in paths]
    for number, path in enumerate(real):
        if path in real[:number]:
            raise SwaToolsError(f"{paths[number]}: this run is named twice")
    names = [path.name for path in real]
    if len(set(names)) < len(names):
        folder = os.path.commonpath(real) if len(real) > 1 else "/"
        names = [os.path.relpath(path, folder) for path in real]
    return [load_run(path, name=name) for path, name in zip(paths, names, strict=True)]


def kind_of(record: Record) -> str | None:
    """Return what a record scores; None for weights between two captures, and for no score."""
    if record.event != "evaluation":
        return None
    if record.checkpoint == START_FILE:
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


def replicates(runs: Sequence[RunData]) -> list[list[RunData]]:
    """Group runs that differ in nothing but the seed, in the order of their first.

    Runs with different seeds may have different starting points: those, too, come from a seed.
    """
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(_experiment(run, START_OPTIONS), []).append(run)
    result = []
    for group in groups.values():
        seeds = [run.options.get("seed") for run in group]
        if len(set(seeds)) == len(group):
            result.append(group)
        else:
            result += [[run] for run in group]
    return sorted(result, key=lambda group: runs.index(group[0]))


def controls_of(run: RunData, runs: Iterable[RunData]) -> list[RunData]:
    """Return the runs that one is compared with.

    They take one checkpoint at their end, after as many epochs and from the same start.
    """
    if run.n_captures < 2:
        return []
    return [
        other
        for other in runs
        if other.n_captures == 1
        and other.n_epochs == run.n_epochs
        and _start_digest(other) in (None, _start_digest(run))
    ]


def _start_digest(run: RunData) -> str | None:
    start = run.last("start")
    return None if start is None else start.record.digest


def _experiment(run: RunData, left_out: frozenset[str]) -> str:
    if not run.options:
        return str(run.path.resolve())  # of an unknown run nothing can be said
    left_out |= NOT_THE_EXPERIMENT | {"seed"}
    return json.dumps(
        {name: value for name, value in run.options.items() if name not in left_out},
        sort_keys=True,
    )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SwaToolsError(f"{path}: cannot read it: {error}") from error
    if not isinstance(document, dict):
        raise SwaToolsError(f"{path}: expected the description of a run, found something else")
    return document


def _name(record: Record, kind: str) -> str:
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


def _place(score: Score) -> tuple[Any, ...]:
    """Return what lines are sorted by: kind, then training images last, then the natural order."""
    kind = _ORDER.index(score.kind) if score.kind in _ORDER else len(_ORDER)
    record = score.record
    parts = _NATURAL.split(score.name)
    natural = [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
    return record.split == "train", kind, record.bn != "stale", natural
