"""The format of measured surfaces: arrays in an `.npz`, and a description of them in JSON.

`landscape` writes these files, `report` reads them. The description lies next to the `.npz` as JSON
and once more inside it, so that the `.npz` alone is enough to draw the picture again.

The arrays of each kind; Y, X, T and P count rows, columns, positions and projected checkpoints:

- `plane`: `x` (X,) and `y` (Y,) of the grid; scores (Y, X); for its three checkpoints
  `checkpoint_xy` (3, 2) and scores (3,) whose names begin with `checkpoint_`; `projected_xyd`
  (P, 3), where d is the distance from the plane.
- `rays`: distances `t` (T,); scores (checkpoints, rays, T).
- `segment`: `t` (T,), 0 and 1 at the checkpoints; `position` (T,) in distances; scores (T,).
- `trajectory`: the arrays of `landscape.trajectory.Trajectory`, and `lag_profile`.

Scores are `train_loss`, `l2`, their sum `train_objective`, `train_error`, `test_loss`,
`test_error`, and `is_correct_bits`, which tells for each validation image whether it is labelled
right, eight images per byte along a last axis.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from swa_tools import __version__
from swa_tools.errors import SwaToolsError
from swa_tools.json_documents import from_json, parse_object

SCHEMA = 1
"""Version of the description."""

SUFFIX = ".npz"

DESCRIPTION = "description"
"""The member of the `.npz` that holds the description; all other members are arrays."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Arrays and what they are.

    Attributes:
        path: The file that holds them.
        kind: `plane`, `rays`, `segment` or `trajectory`.
        arrays: The arrays by name.
        description: What was measured, on what, and how.
    """

    path: Path
    kind: str
    arrays: dict[str, np.ndarray]
    description: dict[str, Any]

    @property
    def has_stale_batchnorm(self) -> bool:
        """Whether a network with BatchNorm was scored without recomputing its statistics."""
        described = self.description
        return bool(described.get("has_batchnorm")) and described.get("bn_samples") == 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Head:
    """What every description says."""

    schema: int
    kind: str


def description_path(path: Path) -> Path:
    """Return the path of the JSON description next to an `.npz`."""
    return path.with_suffix(".json")


def describe(kind: str, **values: Any) -> dict[str, Any]:
    """Return a description.

    Args:
        kind: `plane`, `rays`, `segment` or `trajectory`.
        values: What was measured, on what, and how, as JSON values.
    """
    return {"schema": SCHEMA, "kind": kind, "swa_tools": __version__, **values}


def description_text(description: Mapping[str, Any]) -> str:
    """Return a description as JSON."""
    return json.dumps(description, indent=2, allow_nan=False)


def save_numbers(
    file: IO[bytes], *, arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]
) -> None:
    """Write an `.npz` to an open file.

    Args:
        file: The file to write to.
        arrays: The arrays by name.
        description: What the arrays are, from `describe`.
    """
    members: dict[str, Any] = {**arrays, DESCRIPTION: np.array(description_text(description))}
    np.savez_compressed(file, **members)


def read_numbers(path: Path) -> Numbers:
    """Read an `.npz` that swa-tools wrote.

    Raises:
        SwaToolsError: The file cannot be read, is from another tool, or was written by a version
            with another schema.
    """
    try:
        # Open the file here, because NumPy leaves a broken archive open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = parse_object(str(arrays.pop(DESCRIPTION)))
        head = from_json(description, _Head, name=DESCRIPTION)
    except OSError as error:
        raise SwaToolsError(f"{path}: cannot read this file: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SwaToolsError(
            f"{path}: expected an .npz from swa-tools plane, ray, segment or trajectory, found"
            f" something else ({type(error).__name__})"
        ) from error
    if head.schema != SCHEMA:
        raise SwaToolsError(
            f"{path}: its description has schema {head.schema}, but this version reads {SCHEMA};"
            " update swa-tools"
        )
    return Numbers(path=path, kind=head.kind, arrays=arrays, description=description)
