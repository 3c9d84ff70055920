"""What other commands left in a run's folder for the report: a BatchNorm ablation, and logits."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from swa_tools.errors import SwaToolsError
from swa_tools.json_documents import from_json, parse_object

ABLATION_FILE = "bn-ablation.json"

LOGITS_PATTERNS = ("*.logits.safetensors", "*/*.logits.safetensors")
"""Where in the run's folder `evaluate --save-logits` may have written."""

MOST_LOGITS = 4
"""More lines than this cannot be told apart."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Top-1 over the images that BatchNorm statistics were measured on.

    Attributes:
        curves: Points (images, top-1 in percent) by estimator.
        baselines: Top-1 without a recompute in percent, by name.
        command: How to reproduce the numbers; None if unknown.
    """

    curves: dict[str, tuple[tuple[float, ...], ...]]
    baselines: dict[str, float]
    command: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """A model's logits and the right labels.

    Attributes:
        logits: The model's logits, (N, C).
        targets: The labels, (N,).
        command: How to reproduce the logits; None if unknown.
    """

    logits: np.ndarray
    targets: np.ndarray
    command: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attachments:
    """What was found in a run's folder.

    Attributes:
        ablation: The BatchNorm ablation; None if there is none.
        logits: Saved logits, by the names of their checkpoints.
    """

    ablation: Ablation | None
    logits: Mapping[str, Logits]


def read_attachments(folder: Path) -> Attachments:
    """Return the attachments in a run's folder.

    Raises:
        SwaToolsError: A file is broken.
    """
    return Attachments(ablation=_read_ablation(folder), logits=_read_logits(folder))


def _read_ablation(folder: Path) -> Ablation | None:
    path = folder / ABLATION_FILE
    try:
        found = from_json(parse_object(path.read_bytes()), Ablation, name="ablation")
        if any(len(point) != 2 for points in found.curves.values() for point in points):
            raise ValueError("curves: expected pairs of numbers")
        curves = {name: points for name, points in found.curves.items() if points}
        return dataclasses.replace(found, curves=curves)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SwaToolsError(f"{path}: cannot read this ablation: {error}") from error


def _read_logits(folder: Path) -> dict[str, Logits]:
    """Read the newest few, named after their checkpoints, or by whole file names if two agree."""
    files = {path for pattern in LOGITS_PATTERNS for path in folder.glob(pattern)}
    newest = sorted(files, key=lambda path: (path.stat().st_mtime, path.name))[-MOST_LOGITS:]
    whole = [path.name.removesuffix(".logits.safetensors") for path in sorted(newest)]
    # A file's name ends in a digest of what the logits depend on.
    short = [name.rpartition("-")[0] for name in whole]
    names = [one if short.count(one) == 1 else name for one, name in zip(short, whole, strict=True)]
    return {name: _read_tensors(path) for name, path in zip(names, sorted(newest), strict=True)}


def _read_tensors(path: Path) -> Logits:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return Logits(
                logits=file.get_tensor("logits"),
                targets=file.get_tensor("targets"),
                command=(file.metadata() or {}).get("command"),
            )
    except (OSError, SafetensorError, KeyError) as error:
        raise SwaToolsError(f"{path}: cannot read these logits: {error}") from error
