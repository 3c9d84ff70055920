"""Files of tensors, opened for reading.

Reads are positioned (`pread`), not mapped: a file that shrinks meanwhile is an error, not a
SIGBUS, and the memory of the process is what the caller's buffers take.
"""

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from swa_tools.checkpoints.header import TensorInfo, read_header
from swa_tools.errors import CheckpointError

MAX_OPEN_FILES = 10240
"""Where the system sets no limit; macOS allows a process no more."""


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

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of a tensor from `offset` on. Safe in several threads."""

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file is not what it was when it was opened."""

    def close(self) -> None:
        """Let go of the file."""


class SafetensorsFile:
    """One safetensors file, its header checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._descriptor = open_for_reading(path)
        try:
            self._opened = identity(self._descriptor)
            header = read_header(self._descriptor, where=str(path))
        except OSError as error:
            os.close(self._descriptor)
            raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
        except BaseException:
            os.close(self._descriptor)
            raise
        self.tensors, self.metadata, self._first = header
        self.numbers = _numbers(self.metadata)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `TensorFile`; reads that return short are completed."""
        position = self._first + self.tensors[name].start + offset
        n_read = 0
        while n_read < len(buffer):
            more = os.preadv(self._descriptor, [buffer[n_read:]], position + n_read)
            if more == 0:
                raise CheckpointError(
                    f"{self.path}: it became shorter while it was read (tensor {name!r});"
                    " is somebody still writing it?"
                )
            n_read += more

    def check_unchanged(self) -> None:
        """See `TensorFile`: compares size and time of modification."""
        check_identity(self.path, self._descriptor, self._opened)

    def close(self) -> None:
        """See `TensorFile`."""
        os.close(self._descriptor)


def open_for_reading(path: Path) -> int:
    """Return a file descriptor; raise CheckpointError if it is no file that can be opened."""
    try:
        descriptor = _open(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: cannot open it: {reason}") from error
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError as error:
        os.close(descriptor)
        raise CheckpointError(f"{path}: cannot open it: {error.strerror}") from error
    if not is_file:
        os.close(descriptor)
        raise CheckpointError(f"{path}: not a checkpoint: expected a file, found a folder or pipe")
    return descriptor


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe without a writer would hang
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


def identity(descriptor: int) -> tuple[int, int]:
    """Return the size and the time of modification of an open file."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def check_identity(path: Path, descriptor: int, before: tuple[int, int]) -> None:
    """Raise CheckpointError if the size or time of an open file is not what it was."""
    try:
        after = identity(descriptor)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
    if before != after:
        raise CheckpointError(
            f"{path}: it changed while it was read ({before[0]} bytes before, {after[0]} after);"
            " wait until its writer is done"
        )


def _numbers(metadata: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for key, text in metadata.items():
        with contextlib.suppress(ValueError):
            found[key] = float(text)
    return found
