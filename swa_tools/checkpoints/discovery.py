"""From what a user names to a list of checkpoints: folders, globs, natural order."""

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from swa_tools.checkpoints.folders import is_model_folder, list_folder
from swa_tools.checkpoints.names import in_order
from swa_tools.checkpoints.remote import RemotePath, as_path
from swa_tools.errors import CheckpointError
from swa_tools.run_files import CAPTURES, DESCRIPTION, is_run


def find_checkpoints(
    arguments: Sequence[str | Path], *, on_left_out: Callable[[Path, str], None] | None = None
) -> list[Path]:
    """Return the checkpoints that the arguments name, in their order.

    An argument is a file, a `*.index.json`, a folder with one model in it, a run directory (its
    captures, nothing else), a folder of checkpoints, a glob, or the URL of any of these. What one
    argument expands to is in natural order, `epoch-10` after `epoch-9`, and names without a number
    come first, so that `last` and `best` are never taken for the newest.

    Args:
        arguments: What the user names.
        on_left_out: Called with each file of a folder of checkpoints that is none, and the reason.

    Raises:
        CheckpointError: An argument names nothing, or a folder with checkpoints of several models.
    """
    found: list[Path] = []
    for argument in arguments:
        found += _expand(as_path(argument), on_left_out or _unheard)
    return found


def _unheard(_path: Path, _reason: str) -> None:
    pass


def _expand(path: Path, on_left_out: Callable[[Path, str], None]) -> list[Path]:
    if isinstance(path, RemotePath):
        return _expand_remote(path, on_left_out)
    if is_run(path):
        captures = _matches("*.safetensors", folder=path / CAPTURES)
        if not captures:
            raise CheckpointError(f"{path}: this run has no captures yet in its {CAPTURES}/")
        return captures
    if os.path.isdir(path) and not is_model_folder(path):
        listing = list_folder(path)
        for left_out in listing.left_out.items():
            on_left_out(*left_out)
        return listing.checkpoints
    try:
        os.stat(path)
    except FileNotFoundError:
        return _expand_pattern(path, on_left_out)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: cannot open it: {reason}") from error
    return [path]


def _expand_remote(path: RemotePath, on_left_out: Callable[[Path, str], None]) -> list[Path]:
    if path.is_pattern:
        found = {str(match): match for match in path.matches()}
        if not found:
            raise CheckpointError(f"{path}: no file matches this pattern")
        return [one for url in in_order(list(found)) for one in _expand(found[url], on_left_out)]
    if not path.is_dir() or is_model_folder(path):
        return [path]
    if {DESCRIPTION, CAPTURES} <= set(path.names()):
        return _expand_remote(path / CAPTURES / "*.safetensors", on_left_out)
    listing = list_folder(path)
    for left_out in listing.left_out.items():
        on_left_out(*left_out)
    return listing.checkpoints


def _expand_pattern(path: Path, on_left_out: Callable[[Path, str], None]) -> list[Path]:
    if not glob.has_magic(str(path)):
        raise CheckpointError(f"{path}: no such file")
    matches = _matches(str(path))
    if not matches:
        raise CheckpointError(f"{path}: no file matches this pattern")
    return [one for match in matches for one in _expand(match, on_left_out)]


def _matches(pattern: str, *, folder: Path | None = None) -> list[Path]:
    """Return what matches, in order; hidden files (macOS leaves `._*`) do not."""
    found = in_order(glob.glob(pattern, root_dir=folder, recursive=True))
    return [folder / name if folder else Path(name) for name in found]
