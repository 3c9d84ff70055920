"""Outputs that appear whole or not at all.

A temporary file in the same folder, fsync, rename, fsync of the folder. Whatever goes wrong on
the way, Ctrl-C included, the temporary file is removed and an earlier output is untouched. A
killed process leaves its temporary file behind, unlocked; the next writer of the same output
removes it.
"""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from swa_tools.checkpoints.header import build_header
from swa_tools.checkpoints.metadata import METADATA_KEY, CheckpointMetadata
from swa_tools.checkpoints.remote import RemotePath, as_path
from swa_tools.errors import OutputError

Buffer = bytes | bytearray | memoryview


def check_output(path: Path, *, force: bool = False) -> None:
    """Tell early whether an output could be written, before the work for it is done.

    Raises:
        OutputError: It exists and `force` is not set or it is no file, or its folder is missing or
            read-only.
    """
    if isinstance(path, RemotePath):
        if path.is_web:
            raise OutputError(f"{path}: cannot write to a web server; give another kind of URL")
        if not force and path.exists():
            raise OutputError(f"{path}: it exists already; choose another name, or give --force")
        return
    try:
        mode = os.lstat(path).st_mode  # a link counts as existing, wherever it leads
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise OutputError(f"{path}: cannot write it: {error.strerror}") from error
    if os.path.isdir(path):
        raise OutputError(f"{path}: cannot write it: it is a folder")
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OutputError(f"{path}: cannot write it: it is a device or a pipe, not a file")
    if mode is not None and not force:
        raise OutputError(f"{path}: it exists already; choose another name, or give --force")
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path}: cannot write it: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot write it: no permission to write in {path.parent}")


@contextlib.contextmanager
def atomic_output(path: str | Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write to, which becomes `path` when the block ends without an error.

    Its permissions are those that the umask gives. Positioned writes (`os.pwrite` on its
    descriptor) are welcome. What becomes a file on a server is kept in the folder for temporary
    files (`TMPDIR`) until it is sent there at the end.

    Raises:
        OutputError: The output exists and `force` is not set, or cannot be written.
    """
    path = as_path(path)
    check_output(path, force=force)
    if isinstance(path, RemotePath):
        with _sent_at_the_end(path, force=force) as file:
            yield file
        return
    remove_abandoned(path)
    try:
        with temporary_file(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            check_output(path, force=force)
            os.replace(file.name, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot write it: {error.strerror or error}") from error


@contextlib.contextmanager
def _sent_at_the_end(path: RemotePath, *, force: bool) -> Iterator[BinaryIO]:
    """Give a local file, which is sent to a server when the block ends without an error."""
    local = Path(tempfile.gettempdir(), path.name)
    remove_abandoned(local)
    try:
        with temporary_file(local) as file:
            yield file
            file.flush()
            check_output(path, force=force)
            path.upload(Path(file.name))
    except OSError as error:
        where = f"{path}: cannot write the temporary file in {tempfile.gettempdir()} for it"
        raise OutputError(f"{where}: {error.strerror or error}") from error


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[BinaryIO]:
    """Give a new file beside an output, which is removed at the end if it is still there."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb+") as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
    finally:
        with contextlib.suppress(OSError):  # it is gone; or else the next writer removes it
            temporary.unlink()


def temporary_name(path: Path) -> Path:
    """Return a new name beside an output, for what becomes that output.

    What becomes a file on a server is in the folder for temporary files.
    """
    folder = Path(tempfile.gettempdir()) if isinstance(path, RemotePath) else path.parent
    # Random, not the process's number: another machine that shares the disk may have the same.
    return folder / f".{path.name}.{os.urandom(6).hex()}.tmp"


def remove_abandoned(path: Path) -> None:
    """Remove what writers of an output left that were killed; a living one holds its lock."""
    pattern = f".{glob.escape(path.name)}.*.tmp"
    for candidate in glob.glob(pattern, root_dir=path.parent):
        with contextlib.suppress(OSError):
            _remove_unlocked(path.parent / candidate)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder that may be written to but not listed cannot be synced
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
            raise
    finally:
        os.close(descriptor)


class SafetensorsWriter:
    """Writes tensors to their places in a safetensors file, in any order and from any thread.

    The place of every tensor is fixed by the header, which is written first. Metadata that is
    known only at the end (digests) replaces a placeholder of the same length.
    """

    def __init__(
        self,
        file: BinaryIO,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ) -> None:
        """Lay out the file and write its header.

        Args:
            file: From `atomic_output`.
            tensors: dtype name and shape by tensor name.
            metadata: The file's `__metadata__`, from `file_metadata`.
        """
        self._descriptor = file.fileno()
        self._tensors = tensors
        self._header, self._places = build_header(tensors, metadata)
        self._write(self._header, 0)

    def write(self, name: str, offset: int, data: Buffer) -> None:
        """Write bytes of a tensor, from its byte `offset` on."""
        self._write(data, len(self._header) + self._places[name].start + offset)

    def replace_metadata(self, metadata: Mapping[str, str]) -> None:
        """Write the header again with other metadata of the same length."""
        header, _ = build_header(self._tensors, metadata)
        if len(header) != len(self._header):
            raise ValueError(f"metadata of another length: {len(header)}, {len(self._header)}")
        self._write(header, 0)

    def _write(self, data: Buffer, position: int) -> None:
        view = memoryview(data).cast("B")
        while view:
            n_written = os.pwrite(self._descriptor, view, position)
            view, position = view[n_written:], position + n_written


def file_metadata(
    metadata: CheckpointMetadata | None, ties: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the `__metadata__` of a safetensors file.

    Args:
        metadata: What swa-tools has to say of the checkpoint; None for nothing.
        ties: Names that stand for another tensor's, as safetensors' `save_model` records them.
    """
    result = {"format": "pt", **(ties or {})}
    if metadata is not None:
        result[METADATA_KEY] = metadata.to_json()
    return result
