"""From what a user names to a list of checkpoints: folders, globs, natural order."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from swa_tools.checkpoints.names import natural_key
from swa_tools.checkpoints.reader import FOLDER_FILES
from swa_tools.errors import CheckpointError
from swa_tools.run_files import CAPTURES, DESCRIPTION, is_run


def find_checkpoints(arguments: Sequence[str | Path]) -> list[Path]:
    """Return the checkpoints that the arguments name, in their order.

    An argument is a file, a `*.index.json`, a folder with one model in it, a run directory (its
    captures, nothing else) or a glob. What one argument expands to is in natural order:
    `epoch-10` after `epoch-9`.

    Raises:
        CheckpointError: An argument names nothing.
    """
    found: list[Path] = []
    for argument in arguments:
        found += _expand(Path(argument))
    return found


def _expand(path: Path) -> list[Path]:
    if is_run(path):
        captures = _matches("*.safetensors", folder=path / CAPTURES)
        if not captures:
            raise CheckpointError(f"{path}: this run has no captures yet in its {CAPTURES}/")
        return captures
    if os.path.isdir(path) and not any(os.path.lexists(path / name) for name in FOLDER_FILES):
        raise CheckpointError(
            f"{path}: neither a run directory nor a model folder: expected {CAPTURES}/ and"
            f" {DESCRIPTION}, or {FOLDER_FILES[0]}; for the files in it give '{path}/*.safetensors'"
        )
    try:
        os.stat(path)
    except FileNotFoundError:
        return _expand_pattern(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: cannot open it: {reason}") from error
    return [path]


def _expand_pattern(path: Path) -> list[Path]:
    if not glob.has_magic(str(path)):
        raise CheckpointError(f"{path}: no such file")
    matches = _matches(str(path))
    if not matches:
        raise CheckpointError(f"{path}: no file matches this pattern")
    return [one for match in matches for one in _expand(match)]


def _matches(pattern: str, *, folder: Path | None = None) -> list[Path]:
    """Return what matches in natural order; hidden files (macOS leaves `._*`) do not."""
    found = glob.glob(pattern, root_dir=folder, recursive=True)
    found.sort(key=lambda name: (natural_key(name), name))
    return [folder / name if folder else Path(name) for name in found]
