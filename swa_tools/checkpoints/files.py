"""Files of tensors, opened for reading.

Reads are positioned (`pread`), not mapped: a file that shrinks meanwhile is an error, not a
SIGBUS, and the memory of the process is what the caller's buffers take.
"""

import contextlib
import errno
import io
import os
import resource
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from swa_tools.checkpoints.header import Source, TensorInfo, read_header
from swa_tools.checkpoints.read_ahead import Span
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.checkpoints.remote_file import RemoteFile
from swa_tools.errors import CheckpointError

MAX_OPEN_FILES = 10240
"""Where the system sets no limit; macOS allows a process no more."""


class Input(Source, Protocol):
    """A file opened for reading, on a disk (`InputFile`) or on a server (`RemoteFile`)."""

    @property
    def path(self) -> Path:
        """As it was given."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Take a hint on what will be read next: bytes start to end, in this order."""

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file is not what it was when it was opened."""

    def close(self) -> None:
        """Let go of the file."""


class TensorFile(Protocol):
    """One file of tensors, in whatever format."""

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    """The strings that a safetensors file keeps beside its tensors."""
    numbers: dict[str, float]
    """What stands beside the tensors and is a number: `epoch`, `best_acc1`, …"""
    notes: tuple[str, ...]
    """What the user should know of how it is read."""
    prefix: str
    """What its trainer puts before every name, beside the wrappers that everybody uses."""

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of a tensor from `offset` on. Safe in several threads."""

    def place(self, name: str, offset: int, n_bytes: int) -> Span | None:
        """Return where bytes of a tensor stand in a file on a server; None for any other."""

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file is not what it was when it was opened."""

    def close(self) -> None:
        """Let go of the file."""


class SafetensorsFile:
    """One safetensors file, its header checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self.prefix = ""
        self._file = open_input(path)
        try:
            header = read_header(self._file, where=str(path))
        except OSError as error:
            self._file.close()
            raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise
        self.tensors, self.metadata, self._first = header
        self.numbers = _numbers(self.metadata)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `TensorFile`."""
        self._file.read_at(self._first + self.tensors[name].start + offset, buffer)

    def place(self, name: str, offset: int, n_bytes: int) -> Span | None:
        """See `TensorFile`."""
        start = self._first + self.tensors[name].start + offset
        return span_in(self._file, start, start + n_bytes)

    def check_unchanged(self) -> None:
        """See `TensorFile`: compares size and time of modification."""
        self._file.check_unchanged()

    def close(self) -> None:
        """See `TensorFile`."""
        self._file.close()


def open_input(path: Path) -> Input:
    """Open a file, or a URL.

    Raises:
        CheckpointError: It cannot be opened.
    """
    return RemoteFile(path) if isinstance(path, RemotePath) else InputFile(path)


def read_all(file: Input) -> bytes:
    """Return all bytes of a small file."""
    data = bytearray(file.n_bytes)
    file.read_at(0, memoryview(data))
    return bytes(data)


def span_in(file: Input, start: int, end: int) -> Span | None:
    """Return bytes of a file on a server; None for a file on a disk, which is not read ahead."""
    return Span(file, start, end) if isinstance(file, RemoteFile) else None


class InputFile(io.FileIO):
    """A file opened for reading that knows whether it has changed since.

    Attributes:
        path: As it was given.
        n_bytes: Its size when it was opened.

    Raises:
        CheckpointError: It is no file, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            super().__init__(path, opener=_open)
            status = os.fstat(self.fileno())
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file") from error
        except (OSError, ValueError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise CheckpointError(f"{path}: cannot open it: {reason}") from error
        self.n_bytes, self._modified = status.st_size, status.st_mtime_ns
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise CheckpointError(f"{path}: not a checkpoint: it is a device or a pipe, not a file")

    def read_at(self, position: int, buffer: memoryview) -> None:
        """Fill the buffer from a position on; reads that return short are completed.

        Raises:
            CheckpointError: The file ends too early.
            OSError: The disk fails.
        """
        n_read = 0
        while n_read < len(buffer):
            more = os.preadv(self.fileno(), [buffer[n_read:]], position + n_read)
            if more == 0:
                raise CheckpointError(
                    f"{self.path}: it became shorter while it was read; is somebody still writing"
                    " it?"
                )
            n_read += more

    def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Do nothing: the system reads ahead."""

    def check_unchanged(self) -> None:
        """Raise CheckpointError if its size or time of modification is not what it was."""
        try:
            status = os.fstat(self.fileno())
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot read it: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (self.n_bytes, self._modified):
            raise CheckpointError(
                f"{self.path}: it changed while it was read ({self.n_bytes} bytes before,"
                f" {status.st_size} after); wait until its writer is done"
            )

    def close(self) -> None:
        """Close it; as it was only read, nothing is lost where that fails."""
        with contextlib.suppress(OSError):
            super().close()


def _open(path: str, flags: int) -> int:
    flags |= os.O_NONBLOCK  # a pipe without a writer would hang
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    # Many shards of many checkpoints. The soft limit is there for programs that use select().
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return os.open(path, flags)


def _numbers(metadata: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for key, text in metadata.items():
        with contextlib.suppress(ValueError):
            found[key] = float(text)
    return found
