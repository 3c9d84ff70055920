"""Write measurements: an `.npz` and its description next to it, each whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.checkpoints import Checkpoint, atomic_output, check_output
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.errors import OutputError
from swa_tools.measurements import SUFFIX, description_path, description_text, save_numbers


def check_numbers(path: Path, *, force: bool) -> None:
    """Tell early whether the two files could be written.

    Raises:
        OutputError: One exists and `force` is not set, or the name does not end in `.npz`, or is
            a URL: a measurement that was interrupted goes on from files beside it.
    """
    if isinstance(path, RemotePath):
        raise OutputError(f"{path}: measurements are written to a disk; give a local file")
    if path.suffix != SUFFIX:
        raise OutputError(
            f"{path}: the numbers behind a picture are written as {SUFFIX}; choose a name that ends"
            f" in {SUFFIX}"
        )
    for output in (path, description_path(path)):
        check_output(output, force=force)


def describe_checkpoints(checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Return the name, content digest and kind of each checkpoint; this reads all bytes."""
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
        path: The `.npz`; the description goes next to it.
        arrays: The arrays by name.
        description: What the arrays are, from `measurements.describe`.
        force: Whether existing files may be replaced.

    Raises:
        OutputError: A file exists and `force` is not set, or cannot be written.
    """
    with atomic_output(description_path(path), force=force) as file:
        file.write(f"{description_text(description)}\n".encode())
    with atomic_output(path, force=force) as file:
        save_numbers(file, arrays=arrays, description=description)
