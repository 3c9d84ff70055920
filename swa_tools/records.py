"""The single format of results: a record is one line of JSON.

`finetune` writes records to `RUN/metrics.jsonl`. Commands that score checkpoints append them to
`RUN/results.jsonl` or to the file that `--results` names. `report` reads nothing else.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from swa_tools.errors import OutputError, SwaToolsError
from swa_tools.json_documents import from_json, parse_object

Event = Literal["step", "epoch", "evaluation"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing that was measured.

    Attributes:
        event: `step` and `epoch` come from training, `evaluation` from scoring a checkpoint.
        checkpoint: Name of the scored file, without its folder.
        digest: Content digest of its tensors (`xxh3-128:…`).
        kind: What was scored: `checkpoint`, `average`, `soup`, `ensemble`, `start`, `ema`.
        bn: BatchNorm state when it was scored: `none`, `trained`, `stale`, `updated`, `unknown`.
        split: `train` or `val`.
        n_samples: Number of images scored.
        top1, top5, ece: Accuracies and calibration error, in percent.
        nll: Mean negative log-likelihood, in nats.
        epoch: Passes over the training images completed when this was measured; may be a fraction.
        step: Optimizer steps completed, counted from 1.
        cycle: Number of the cycle, counted from 1.
        lr: Learning rate of that step.
        train_loss: Mean training loss since the previous record, in nats.
        command: How to reproduce the record.
    """

    event: Event
    checkpoint: str | None = None
    digest: str | None = None
    kind: str | None = None
    bn: str | None = None
    split: str | None = None
    n_samples: int | None = None
    top1: float | None = None
    top5: float | None = None
    nll: float | None = None
    ece: float | None = None
    epoch: float | None = None
    step: int | None = None
    cycle: int | None = None
    lr: float | None = None
    train_loss: float | None = None
    command: str | None = None

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the fields that are not set.

        JSON has no NaN or Inf: such a value is written as `null`, for "measured, but not a number".
        """
        document: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            document[field.name] = None if _is_no_number(value) else value
        return json.dumps(document)


_START = b'{"event": "'
"""The beginning of every record."""


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records to a JSON-lines file, in one write; create the file if it is missing.

    A last record that was cut off (by a killed writer or a full disk) is removed first, so that it
    cannot swallow the new one. Writers that append to one file at the same time take turns.

    Raises:
        OutputError: The file cannot be written.
        SwaToolsError: It is not a file of records.
    """
    text = "".join(record.to_json() + "\n" for record in records)
    if not text:
        return
    try:
        with open(path, "ab+", buffering=0) as file:
            # Some network file systems have no locks; a single writer is safe without one.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            data = _mend_last_line(file, path) + text.encode()
            while data:
                data = data[file.write(data) :]
    except OSError as error:
        raise OutputError(f"{path}: cannot write results: {error.strerror}") from error


def _mend_last_line(file: io.FileIO, path: Path) -> bytes:
    """Remove a last record that was cut off; return the newline that a whole one lacks."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    while b"\n" not in tail and len(tail) < end:
        start = max(0, end - len(tail) - 4096)
        tail = os.pread(file.fileno(), end - len(tail) - start, start) + tail
    line = tail.rpartition(b"\n")[2]
    if not line:
        return b""
    try:
        parse_record(line)
    except ValueError as error:
        if not (line.startswith(_START) or _START.startswith(line)):
            raise SwaToolsError(
                f"{path}: cannot append results: expected a file of records, found"
                f" {_shorten(line)}; name another file"
            ) from error
        file.truncate(end - len(line))
        return b""
    return b"\n"


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a JSON-lines file; fields of a newer version are ignored.

    A last line without its newline, which a killed writer leaves behind, is not an error.

    Raises:
        SwaToolsError: The file cannot be read, or a line is not a record.
    """
    try:
        # A line ends only at a newline: str.splitlines would also cut at U+2028.
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SwaToolsError(f"{path}: cannot read results: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)
        if last and not line:
            return
        try:
            record = parse_record(line)
        except ValueError as error:
            if last:
                return
            raise SwaToolsError(
                f"{path}, line {number}: not a record: {error}; found {_shorten(line)}"
            ) from error
        yield record


def parse_record(line: bytes) -> Record:
    """Return the record that a line holds; fields of a newer version are ignored.

    Raises:
        ValueError: It is not a JSON object with the field `event`, or a field has another type.
    """
    # Other writers may put NaN and Inf where we put null.
    found = parse_object(line).items()
    plain = {name: None if _is_no_number(value) else value for name, value in found}
    return from_json(plain, Record, name="record")


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _shorten(line: bytes) -> str:
    return repr(line[:60].decode(errors="replace"))
