"""What a picture is drawn from: arrays in an `.npz`, and what they are in JSON.

The description stands in the `.npz`, too, so that the one file is enough to draw again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools import __version__
from swa_tools.checkpoints import Checkpoint, atomic_output, check_output
from swa_tools.errors import OutputError

SCHEMA = 1
"""Version of the description."""

SUFFIX = ".npz"


def description_path(path: Path) -> Path:
    """Return where the description of an `.npz` stands by itself."""
    return path.with_suffix(".json")


def check_numbers(path: Path, *, force: bool) -> None:
    """Tell early whether the two files could be written.

    Raises:
        OutputError: One exists and `force` is not set, or the name does not end in `.npz`.
    """
    if path.suffix != SUFFIX:
        raise OutputError(f"{path}: the numbers of a picture are written as {SUFFIX}; name it so")
    for output in (path, description_path(path)):
        check_output(output, force=force)


def describe(kind: str, **values: Any) -> dict[str, Any]:
    """Return the description of numbers.

    Args:
        kind: `plane`, `rays`, `segment` or `trajectory`.
        values: JSON values: what was measured, on what, how.
    """
    return {"schema": SCHEMA, "kind": kind, "swa_tools": __version__, **values}


def describe_checkpoints(checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Return name, content digest and kind of each; reads all bytes."""
    return [
        {
            "name": checkpoint.name,
            "digest": checkpoint.digest(),
            "kind": checkpoint.metadata.kind if checkpoint.metadata else "checkpoint",
        }
        for checkpoint in checkpoints
    ]


def write_numbers(
    path: Path,
    *,
    arrays: Mapping[str, np.ndarray],
    description: Mapping[str, Any],
    force: bool = False,
) -> None:
    """Write the numbers and their description; each file whole or not at all.

    Args:
        path: The `.npz`; the description goes beside it.
        arrays: By name.
        description: From `describe`.
        force: Whether existing files may be replaced.

    Raises:
        OutputError: A file exists and `force` is not set, or cannot be written.
    """
    text = json.dumps(description, indent=2, allow_nan=False)
    members: dict[str, Any] = {**arrays, "description": np.array(text)}
    with atomic_output(description_path(path), force=force) as file:
        file.write(text.encode() + b"\n")
    with atomic_output(path, force=force) as file:
        np.savez_compressed(file, **members)
