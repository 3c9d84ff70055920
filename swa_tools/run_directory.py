"""The folder of a run: where its files are, what they say, and which run a file belongs to."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swa_tools.checkpoints import atomic_output
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.errors import OutputError, SwaToolsError, TrainingError
from swa_tools.json_documents import parse_object
from swa_tools.records import Record, append_records, read_records
from swa_tools.run_files import (
    AVERAGE,
    CAPTURES,
    DESCRIPTION,
    EMA,
    METRICS,
    RESULTS,
    RESUME,
    START,
    TENSORBOARD,
    is_run,
)


@dataclasses.dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run's folder and what is in it.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def description(self) -> Path:
        """Every option as resolved, versions and hardware."""
        return self.path / DESCRIPTION

    @property
    def start(self) -> Path:
        """The starting weights, which are never taken for a capture."""
        return self.path / START

    @property
    def checkpoints(self) -> Path:
        """The folder of the captures."""
        return self.path / CAPTURES

    @property
    def ema(self) -> Path:
        """The folder of the moving averages (EMA), taken at the same moments."""
        return self.path / EMA

    @property
    def average(self) -> Path:
        """The average of the captures, ready for use."""
        return self.path / AVERAGE

    @property
    def metrics(self) -> Path:
        """The records of training and validation."""
        return self.path / METRICS

    @property
    def results(self) -> Path:
        """The records of everything scored later from this run."""
        return self.path / RESULTS

    @property
    def resume(self) -> Path:
        """The newest point to resume from."""
        return self.path / RESUME

    @property
    def tensorboard(self) -> Path:
        """The folder of the TensorBoard log."""
        return self.path / TENSORBOARD

    def capture(self, cycle: int | None) -> Path:
        """Return the file of a capture; None for the end of a schedule without cycles."""
        name = "final.safetensors" if cycle is None else f"cycle-{cycle:03d}.safetensors"
        return self.checkpoints / name

    def exists(self) -> bool:
        """Tell whether a run has begun here."""
        return self.description.exists() or self.resume.exists()

    def has_results(self) -> bool:
        """Tell whether the run has produced anything: captures, an average or records."""
        files = (self.average, self.metrics, self.results)
        return any(self.checkpoints.glob("*.safetensors")) or any(
            file.exists() and file.stat().st_size > 0 for file in files
        )

    def check_free(self, *, force: bool) -> None:
        """Check early that a run can begin here.

        Raises:
            OutputError: There are files in the folder and `force` is not set, or the folder cannot
                be written to.
        """
        if isinstance(self.path, RemotePath):
            raise OutputError(f"{self.path}: a run is written to a disk; give a local folder")
        with _writing(self.path):
            folders = (self.path, *self.path.absolute().parents)
            existing = next(path for path in folders if path.exists())
            if not existing.is_dir():
                raise OutputError(f"{self.path}: cannot write a run there: {existing} is a file")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise OutputError(f"{self.path}: cannot write a run there: no permission")
            if self.path.exists() and self._has_files() and not force:
                raise OutputError(
                    f"{self.path}: already exists and is not empty; continue the run in it with"
                    " --resume, choose another name, or give --force"
                )

    def _has_files(self) -> bool:
        """Tell whether there is more here than a run leaves if it is killed as it begins."""
        return any(
            not path.is_dir() and not (path.name[0] == "." and path.suffix == ".tmp")
            for path in self.path.rglob("*")
        )

    def create(self, *, ema: bool) -> None:
        """Create the folders, and remove an earlier run's files; other files are left alone.

        Raises:
            OutputError: The folders cannot be created, or the files cannot be removed.
        """
        with _writing(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if ema:
                self.ema.mkdir(exist_ok=True)
            # The description goes last: until then it is still a run.
            for file in (*self._own_files(), self.description):
                file.unlink(missing_ok=True)

    def describe(self, document: dict[str, Any]) -> None:
        """Write `run.json`."""
        with atomic_output(self.description, force=True) as file:
            file.write(json.dumps(document, indent=2).encode() + b"\n")

    def read_description(self) -> dict[str, Any]:
        """Return what `run.json` says; empty if there is none.

        Raises:
            SwaToolsError: The file cannot be read, or is not a run's description.
        """
        path = self.description
        try:
            return parse_object(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise SwaToolsError(
                f"{path}: cannot read this file ({error}); expected the description of a run"
            ) from error

    def readable_description(self) -> dict[str, Any]:
        """Return what `run.json` says; empty if it is missing or cannot be read."""
        try:
            return self.read_description()
        except SwaToolsError:
            return {}

    def read_metrics(self) -> list[Record]:
        """Return the records of training and validation; none if there is no such file.

        Raises:
            SwaToolsError: The file cannot be read, or is not a file of records.
        """
        return list(read_records(self.metrics)) if self.metrics.exists() else []

    def append(self, records: Iterable[Record]) -> None:
        """Append records to the metrics."""
        append_records(self.metrics, records)

    def sync_metrics(self) -> int:
        """Flush the metrics to disk and return their length in bytes."""
        with _writing(self.metrics), open(self.metrics, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def truncate_metrics(self, n_bytes: int) -> None:
        """Cut the metrics back to the length that they had at the resume point.

        Raises:
            TrainingError: The file is shorter than that.
        """
        with _writing(self.metrics), open(self.metrics, "ab") as file:
            if file.tell() < n_bytes:
                raise TrainingError(
                    f"{self.metrics}: has {file.tell()} bytes, expected at least the {n_bytes} of"
                    " the point to resume from; restore the file, or start over with --force"
                )
            file.truncate(n_bytes)

    def _own_files(self) -> Iterator[Path]:
        yield from (self.resume, self.start, self.average, self.metrics, self.results)
        for folder in (self.checkpoints, self.ema):
            if folder.is_dir():
                yield from folder.glob("*.safetensors")


def options_in(description: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `finetune` from the contents of a `run.json`; empty if it has none."""
    found = description.get("options")
    return found if isinstance(found, dict) else {}


def read_options(path: Path) -> dict[str, Any]:
    """Return the options of `finetune` in a `run.json`, wherever the file lies.

    Raises:
        TrainingError: The file is missing, or holds no options.
    """
    try:
        return dict(parse_object(path.read_bytes())["options"])
    except FileNotFoundError as error:
        raise TrainingError(
            f"{path}: there is no such file; check that {path.parent} is a run directory"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: cannot read a run's options from this file ({error}); expected the"
            f" {DESCRIPTION} that finetune writes"
        ) from error


def run_of_capture(path: Path) -> RunDirectory | None:
    """Return the run that a capture belongs to; None for any other file."""
    run = run_of(path)
    return run if run is not None and path.absolute().parent == run.checkpoints else None


def run_of(path: Path) -> RunDirectory | None:
    """Return the run that a file belongs to: it lies in the run's folder or one level below."""
    folders = path.absolute().parents[:2]
    return next((RunDirectory(folder) for folder in folders if is_run(folder)), None)


def common_run(paths: Sequence[Path]) -> RunDirectory | None:
    """Return the run that all files belong to; None if there is none."""
    runs = {run_of(path) for path in paths}
    return runs.pop() if len(runs) == 1 else None


def common_run_of_captures(paths: Sequence[Path]) -> RunDirectory | None:
    """Return the run that all files are captures of; None if there is none."""
    runs = {run_of_capture(path) for path in paths}
    return runs.pop() if len(runs) == 1 else None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot write here: {error.strerror or error}") from error
