"""Files of tensors, opened for reading.

Reads are positioned (`pread`), not mapped: a file that shrinks meanwhile is an error, not a
SIGBUS, and the memory of the process is what the caller's buffers take.
"""

import os
from pathlib import Path
from typing import Protocol

from swa_tools.checkpoints.header import TensorInfo, read_header
from swa_tools.errors import CheckpointError


class TensorFile(Protocol):
    """One file of tensors, in whatever format."""

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]

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
        self._descriptor = open_for_reading(path)
        try:
            self._opened = identity(self._descriptor)
            header = read_header(self._descriptor, where=str(path))
        except BaseException:
            os.close(self._descriptor)
            raise
        self.tensors, self.metadata = header

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `TensorFile`; reads that return short are completed."""
        position = self.tensors[name].start + offset
        n_read = os.preadv(self._descriptor, [buffer], position)
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
        check_identity(self.path, self._opened, identity(self._descriptor))

    def close(self) -> None:
        """See `TensorFile`."""
        os.close(self._descriptor)


def open_for_reading(path: Path) -> int:
    """Return a file descriptor; raise CheckpointError if the file cannot be opened."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot open it: {error.strerror}") from error


def identity(descriptor: int) -> tuple[int, int]:
    """Return the size and the time of modification of an open file."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def check_identity(path: Path, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Compare (size, time of modification) of a file; raise CheckpointError if they differ."""
    if before != after:
        raise CheckpointError(
            f"{path}: it changed while it was read ({before[0]} bytes before, {after[0]} after);"
            " wait until its writer is done"
        )
