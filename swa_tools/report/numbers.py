"""Read the numbers that `plane`, `ray`, `segment` and `trajectory` wrote."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.errors import SwaToolsError

SCHEMA = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Arrays and what they are.

    Attributes:
        path: The file that they come from.
        kind: `plane`, `rays`, `segment` or `trajectory`.
        arrays: By name.
        description: What was measured, on what, how.
    """

    path: Path
    kind: str
    arrays: dict[str, np.ndarray]
    description: dict[str, Any]


def read_numbers(path: Path) -> Numbers:
    """Read an `.npz` of ours.

    Raises:
        SwaToolsError: It cannot be read, is another tool's, or was written by a newer version.
    """
    try:
        # Opened here, since NumPy leaves a broken archive open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays.pop("description")))
        kind, schema = description["kind"], description["schema"]
    except OSError as error:
        raise SwaToolsError(f"{path}: cannot read it: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SwaToolsError(
            f"{path}: expected the .npz of swa-tools plane, ray, segment or trajectory, found"
            f" something else ({type(error).__name__})"
        ) from error
    if schema != SCHEMA:
        raise SwaToolsError(
            f"{path}: its description has schema {schema}, this version reads {SCHEMA}; update"
            " swa-tools"
        )
    return Numbers(path=path, kind=kind, arrays=arrays, description=description)
