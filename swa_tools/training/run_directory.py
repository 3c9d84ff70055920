"""The folder that a run writes to, and nothing else does."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from swa_tools.checkpoints import atomic_output
from swa_tools.errors import OutputError, TrainingError
from swa_tools.records import Record, append_records


@dataclasses.dataclass(frozen=True, slots=True)
class RunDirectory:
    """The names of a run's files.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def description(self) -> Path:
        """Every option as resolved, versions and hardware."""
        return self.path / "run.json"

    @property
    def start(self) -> Path:
        """The starting weights, which are never taken for a capture."""
        return self.path / "start.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of the captures."""
        return self.path / "checkpoints"

    @property
    def ema(self) -> Path:
        """The folder of the moving average at the same moments."""
        return self.path / "ema"

    @property
    def average(self) -> Path:
        """The average of the captures, ready for use."""
        return self.path / "swa.safetensors"

    @property
    def metrics(self) -> Path:
        """The records of training and validation."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """The records of everything scored later from this run."""
        return self.path / "results.jsonl"

    @property
    def resume(self) -> Path:
        """The newest point to go on from."""
        return self.path / "resume.pt"

    def exists(self) -> bool:
        """Tell whether a run has begun here."""
        return self.description.exists() or self.resume.exists()

    def has_results(self) -> bool:
        """Tell whether there is anything that a run has come to: captures, an average, records."""
        files = (self.average, self.metrics, self.results)
        return any(self.checkpoints.glob("*.safetensors")) or any(
            file.exists() and file.stat().st_size > 0 for file in files
        )

    def check_free(self, *, force: bool) -> None:
        """Tell early whether a run can begin here.

        Raises:
            OutputError: There are files in the folder and `force` is not set, or it cannot be
                written to.
        """
        with _writing(self.path):
            folders = (self.path, *self.path.absolute().parents)
            existing = next(path for path in folders if path.exists())
            if not existing.is_dir():
                raise OutputError(f"{self.path}: cannot write a run there: {existing} is a file")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise OutputError(f"{self.path}: cannot write a run there: no permission")
            if self.path.exists() and self._has_files() and not force:
                raise OutputError(
                    f"{self.path}: it exists already and is not empty; go on with the run in it"
                    " (--resume), choose another name, or give --force"
                )

    def _has_files(self) -> bool:
        """Tell whether there is more than what a run leaves that was killed as it began."""
        return any(
            not path.is_dir() and not (path.name[0] == "." and path.suffix == ".tmp")
            for path in self.path.rglob("*")
        )

    def create(self, *, ema: bool) -> None:
        """Make the folders, and remove an earlier run's files; other files are left alone.

        Raises:
            OutputError: They cannot be made or removed.
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
        """Return what `run.json` says; nothing if it is not there or cut off."""
        try:
            document = json.loads(self.description.read_bytes())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def append(self, records: Iterable[Record]) -> None:
        """Append to the metrics."""
        append_records(self.metrics, records)

    def sync_metrics(self) -> int:
        """Bring the metrics to the disk and return their length in bytes."""
        with _writing(self.metrics), open(self.metrics, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def truncate_metrics(self, n_bytes: int) -> None:
        """Cut the metrics back to the length that they had at the resume point.

        Raises:
            TrainingError: They are shorter than that.
        """
        with _writing(self.metrics), open(self.metrics, "ab") as file:
            if file.tell() < n_bytes:
                raise TrainingError(
                    f"{self.metrics}: {file.tell()} bytes, but at the point to resume from they"
                    f" were {n_bytes}; has somebody changed the file?"
                )
            file.truncate(n_bytes)

    def _own_files(self) -> Iterator[Path]:
        yield from (self.resume, self.start, self.average, self.metrics, self.results)
        for folder in (self.checkpoints, self.ema):
            if folder.is_dir():
                yield from folder.glob("*.safetensors")


def capture_name(cycle: int | None) -> str:
    """Return the file name of a capture; None for the end of a schedule without cycles."""
    return "final.safetensors" if cycle is None else f"cycle-{cycle:03d}.safetensors"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot write it: {error.strerror or error}") from error
