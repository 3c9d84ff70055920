"""Model folders that appear whole or not at all.

Everything is written into a temporary folder first. A new folder is that one, renamed. In a folder
that exists the files are moved into place one by one, in an order in which a reader finds the
earlier model, no model, or the new one, never a mixture:

1. if shards of the earlier model have the names of new ones, the earlier index is removed;
2. the new shards and `config.json` are moved, then the index, or `model.safetensors`;
3. what is left of the earlier model is removed, its index first.

A killed process leaves the temporary folder behind, unlocked; the next writer of the same output
removes it.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from swa_tools.checkpoints.remote import RemotePath
from swa_tools.checkpoints.sharded import INDEX_FILE, SHARD, WEIGHTS_FILE
from swa_tools.checkpoints.writer import (
    check_output,
    remove_abandoned,
    sync_folder,
    temporary_name,
)
from swa_tools.errors import OutputError

CONFIG_FILE = "config.json"


def weights_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder that a new model replaces: weights and index.

    Raises:
        OutputError: The folder cannot be listed.
    """
    stem = WEIGHTS_FILE.removesuffix(".safetensors")
    with clear_errors(folder):
        if isinstance(folder, RemotePath):  # the web has no folders
            names = folder.names() if not folder.is_web and folder.is_dir() else []
        else:
            names = os.listdir(folder) if folder.is_dir() else []
    return {
        name
        for name in names
        if name in (WEIGHTS_FILE, INDEX_FILE)
        or (name.startswith(f"{stem}-") and SHARD.search(name) and name.endswith(".safetensors"))
    }


def check_folder_output(folder: Path, *, has_config: bool, force: bool = False) -> None:
    """Tell early whether a model could be written into a folder, before the work for it is done.

    Args:
        folder: The output; what else is in it stays.
        has_config: Whether a `config.json` will be written.
        force: Whether an earlier model in it may be replaced.

    Raises:
        OutputError: It cannot.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise OutputError(f"{folder}: cannot write into it: it is a file, not a folder")
        check_output(folder)
        return
    names = {*weights_in(folder), *([CONFIG_FILE] if has_config else []), WEIGHTS_FILE}
    for name in sorted(names):
        check_output(folder / name, force=force)


@contextlib.contextmanager
def temporary_folder(output: Path) -> Iterator[Path]:
    """Make a folder for what becomes an output; it is removed at the end if it is still there.

    It lies beside an output that is new, and in one that exists: that may be a disk of its own.

    Raises:
        OutputError: It cannot be made.
    """
    target = output / WEIGHTS_FILE if output.is_dir() else output
    remove_abandoned(target)
    temporary = temporary_name(target)
    try:
        with clear_errors(output):
            temporary.mkdir()
        with held(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what stays is removed by the next writer


@contextlib.contextmanager
def held(temporary: Path) -> Iterator[None]:
    """Let no other writer take a temporary folder for abandoned; for each process that uses it.

    Raises:
        OutputError: This process does not see the folder.
    """
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OutputError(
            f"{temporary}: this process does not see the folder that the first one made"
            f" ({error.strerror}); the output must be on a disk that all machines share"
        ) from error
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def publish(
    temporary: Path, output: Path, files: Mapping[str, bytes], *, force: bool = False
) -> None:
    """Make what is in a temporary folder, on the disk already, the output.

    Args:
        temporary: From `temporary_folder`.
        output: The output.
        files: The content of small files to add, by name.
        force: Whether an earlier model in the output may be replaced.

    Raises:
        OutputError: A file in the output exists and `force` is not set, or cannot be written.
    """
    with clear_errors(output):
        for name, content in files.items():
            with open(temporary / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        new = set(os.listdir(temporary))
        check_folder_output(output, has_config=CONFIG_FILE in new, force=force)
        sync_folder(temporary)
        if temporary.parent == output:
            _move_into(temporary, output, new)
        else:
            os.rename(temporary, output)
            sync_folder(output.parent)


def _move_into(temporary: Path, output: Path, new: set[str]) -> None:
    """Move files from a temporary folder into the output; see the module for the order."""
    old = weights_in(output)
    entry = INDEX_FILE if INDEX_FILE in new else WEIGHTS_FILE
    if (old & new) - {INDEX_FILE, WEIGHTS_FILE}:
        (output / INDEX_FILE).unlink(missing_ok=True)
        sync_folder(output)
    for name in (*sorted(new - {entry}), entry):
        os.replace(temporary / name, output / name)
    sync_folder(output)
    for name in sorted(old - new, reverse=True):  # so the index is before its shards
        (output / name).unlink(missing_ok=True)
    sync_folder(output)


@contextlib.contextmanager
def clear_errors(output: Path) -> Iterator[None]:
    """Turn errors of the system in writing an output into one line.

    Raises:
        OutputError: The block raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{output}: cannot write it: {error.strerror or error}") from error
