"""From what a user names to a list of checkpoints: folders, globs, natural order."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from swa_tools.checkpoints.names import natural_key
from swa_tools.checkpoints.reader import FOLDER_FILES
from swa_tools.errors import CheckpointError

CAPTURES = "checkpoints"
"""The folder of a run directory that holds its captures."""

RUN_FILE = "run.json"


def is_run_directory(path: Path) -> bool:
    """Tell whether a folder was written by `finetune`."""
    return os.path.isfile(path / RUN_FILE) and os.path.isdir(path / CAPTURES)


def run_directory_of(checkpoint: Path) -> Path | None:
    """Return the run directory whose capture this is; None for any other file."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == CAPTURES and is_run_directory(folder.parent) else None


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
    if is_run_directory(path):
        captures = _matches(str(path / CAPTURES / "*.safetensors"), root=path)
        if not captures:
            raise CheckpointError(f"{path}: this run has no captures yet in its {CAPTURES}/")
        return captures
    if os.path.isdir(path) and not any(os.path.lexists(path / name) for name in FOLDER_FILES):
        raise CheckpointError(
            f"{path}: neither a run directory nor a model folder: expected {CAPTURES}/ and"
            f" {RUN_FILE}, or {FOLDER_FILES[0]}; for the files in it give '{path}/*.safetensors'"
        )
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = sorted(
            (Path(match) for match in glob.glob(str(path), recursive=True)), key=_order
        )
        if not matches:
            raise CheckpointError(f"{path}: no file matches this pattern")
        return [one for match in matches for one in _expand(match)]
    raise CheckpointError(f"{path}: no such file")


def _order(path: Path) -> tuple[tuple[int, int | str], ...]:
    return natural_key(str(path))
