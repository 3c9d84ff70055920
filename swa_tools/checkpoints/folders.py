"""A folder of somebody's checkpoints: which of its files are weights of the model."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from swa_tools.checkpoints.foreign.dcp_folder import is_dcp_folder
from swa_tools.checkpoints.foreign.safetensors_pieces import has_safetensors_pieces
from swa_tools.checkpoints.names import common_start, in_order, natural_key, without_a_number
from swa_tools.checkpoints.reader import FOLDER_FILES, open_checkpoint
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.checkpoints.sharded import SHARD
from swa_tools.errors import CheckpointError, NoWeightsError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
"""Ends of the names of files that may hold weights."""

OTHER_CONTENT = re.compile(
    r"optim|sched|scaler|rng_?state|random_states|_args|_state\b", re.IGNORECASE
)
"""In the names of what trainers save beside weights."""

INDEX_SUFFIX = ".index.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds.

    Attributes:
        checkpoints: The checkpoints of one model, in natural order.
        left_out: Why each other file that may hold weights is no part of them.
    """

    checkpoints: list[Path]
    left_out: dict[Path, str]


def list_folder(folder: Path) -> Listing:
    """Find the checkpoints in a folder: files, and folders with a model in each.

    Files of optimizers and their like are left out, and so are names without a number (`last`,
    `model_best`) where others have one: they mostly repeat one of these.

    Raises:
        CheckpointError: There are none, or of more than one model; or one cannot be read: what is
            damaged is never passed over.
    """
    names = [name for name in _names(folder) if not SHARD.search(name)]
    left_out: dict[Path, str] = {}
    layouts: dict[str, object] = {}
    for name in names:
        if OTHER_CONTENT.search(name):
            left_out[folder / name] = "by its name it holds no weights"
            continue
        try:
            layouts[name] = _layout(folder / name)
        except NoWeightsError:
            left_out[folder / name] = "it holds no weights"
    repeated = without_a_number(list(layouts))
    if len(repeated) < len(layouts):
        for name in repeated:
            left_out[folder / name] = "by its name it repeats or combines others"
            del layouts[name]
    if not layouts:
        raise CheckpointError(
            f"{folder}: no checkpoints in this folder: expected a run directory, a model folder"
            f" with {FOLDER_FILES[0]}, or files that end in {', '.join(SUFFIXES)}"
        )
    _check_one_model(folder, layouts)
    return Listing([folder / name for name in in_order(list(layouts))], left_out)


def _names(folder: Path) -> list[str]:
    """Return the names in a folder that may be checkpoints, in natural order."""
    try:
        listed = folder.names() if isinstance(folder, RemotePath) else os.listdir(folder)
        names = [name for name in listed if not name.startswith(".")]
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot list this folder: {error.strerror}") from error
    found = [
        name
        for name in names
        if name.lower().endswith((*SUFFIXES, INDEX_SUFFIX)) or is_model_folder(folder / name)
    ]
    return sorted(found, key=natural_key)


def is_model_folder(folder: Path) -> bool:
    """Tell whether a folder holds one model, as Hugging Face, timm or torch's DCP write it."""
    if isinstance(folder, RemotePath):
        return folder.is_dir() and not set(FOLDER_FILES).isdisjoint(folder.names())
    has_weights = any(os.path.lexists(folder / file) for file in FOLDER_FILES)
    is_cut = is_dcp_folder(folder) or has_safetensors_pieces(folder)
    return os.path.isdir(folder) and (has_weights or is_cut)


def _layout(path: Path) -> object:
    """Return what two checkpoints of one model have in common."""
    with open_checkpoint(path) as checkpoint:
        return frozenset((name, info.shape) for name, info in checkpoint.tensors.items())


def _check_one_model(folder: Path, layouts: Mapping[str, object]) -> None:
    groups: dict[object, list[str]] = {}
    for name, layout in layouts.items():
        groups.setdefault(layout, []).append(name)
    if len(groups) > 1:
        listed = "; ".join(
            f"'{folder / _pattern(names)}' ({len(names)})" for names in groups.values()
        )
        raise CheckpointError(
            f"{folder}: checkpoints of {len(groups)} models in this folder; give those of one:"
            f" {listed}"
        )


def _pattern(names: Sequence[str]) -> str:
    """Return a glob for names that differ in their numbers; a name alone stands for itself."""
    if len(names) == 1:
        return names[0]
    patterns = sorted({re.sub(r"\d+", "*", name) for name in names})
    return patterns[0] if len(patterns) == 1 else f"{common_start(names)}*"
