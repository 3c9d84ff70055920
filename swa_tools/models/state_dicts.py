"""torch state dicts, from and to files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from torch import nn

from swa_tools.checkpoints import Checkpoint, CheckpointMetadata, open_checkpoint, write_checkpoint
from swa_tools.errors import CheckpointError, ModelError

NAMED = 3
"""How many tensors an error message names; the rest it only counts."""


def load_state_dict(path: str | Path, *, entry: str | None = None) -> dict[str, torch.Tensor]:
    """Read all tensors of a checkpoint into memory, on the CPU, in their own dtypes.

    Args:
        path: Any file that `checkpoints.open_checkpoint` opens.
        entry: Which set of weights to take where a pickled file holds several.

    Raises:
        CheckpointError: The file cannot be read, or has a dtype that torch lacks.
    """
    with open_checkpoint(path, entry=entry) as checkpoint:
        return read_tensors(checkpoint)


def read_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return all tensors of an open checkpoint, including tied names, which share memory."""
    checkpoint.will_read_all()
    arrays = {name: checkpoint.read(name) for name in checkpoint.tensors}
    state_dict = from_arrays(arrays, where=str(checkpoint.path))
    checkpoint.check_unchanged()
    return state_dict | {name: state_dict[target] for name, target in checkpoint.ties.items()}


def from_arrays(arrays: Mapping[str, np.ndarray], *, where: str) -> dict[str, torch.Tensor]:
    """Return arrays as tensors that share their memory, with torch's dtypes for those of ml_dtypes.

    Args:
        arrays: Arrays by name; bfloat16 and float8 are ml_dtypes'.
        where: What the arrays are, for the error.

    Raises:
        CheckpointError: torch lacks a dtype.
    """
    return {
        name: _to_torch(array, where=f"{where}: tensor {name!r}") for name, array in arrays.items()
    }


def to_arrays(state_dict: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return tensors as arrays, which share memory with tensors that are contiguous on the CPU."""
    return {name: _to_numpy(tensor) for name, tensor in state_dict.items()}


def save_state_dict(
    path: str | Path,
    state_dict: Mapping[str, torch.Tensor],
    metadata: CheckpointMetadata | None,
    *,
    force: bool = False,
) -> None:
    """Write a state dict as safetensors, contiguous, whole or not at all.

    Args:
        path: The output.
        state_dict: Tensors on any device, in any memory layout; not changed.
        metadata: What the file says about itself; None for nothing.
        force: Whether an existing file may be replaced.

    Raises:
        OutputError: The output exists and `force` is not set, or cannot be written.
        CheckpointError: safetensors has no dtype for a tensor.
    """
    write_checkpoint(path, to_arrays(state_dict), metadata, force=force)


def load_into(module: nn.Module, state_dict: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Copy a state dict into a module; every name and shape must fit, dtypes are converted.

    Only the counters `num_batches_tracked`, which files from old versions lack, may be missing. If
    anything does not fit, nothing is changed.

    Args:
        module: The module to change; its device and dtypes stay.
        state_dict: Tensors under the module's own names.
        where: The file, for the error.

    Raises:
        ModelError: A tensor is missing, unexpected, or has another shape.
    """
    own = module.state_dict()
    missing = [
        name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state_dict if name not in own]
    other_shapes = [
        f"{name!r} is {tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    problems = [
        f"{title} {_first(items)}"
        for title, items in (
            ("it lacks", [repr(name) for name in missing]),
            ("the model has no", [repr(name) for name in unexpected]),
            ("other shapes:", other_shapes),
        )
        if items
    ]
    if problems:
        raise ModelError(
            f"{where}: these weights do not fit the model {type(module).__name__}:"
            f" {'; '.join(problems)}; name the right model with --model, or check its number of"
            " classes"
        )
    # A plain dict carries no version, so that torch fills in the counters that old files lack.
    module.load_state_dict(dict(state_dict))


def _first(items: Iterable[str]) -> str:
    items = list(items)
    rest = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + rest


def _to_torch(array: np.ndarray, *, where: str) -> torch.Tensor:
    """Return the array as a tensor on the same memory."""
    dtype = getattr(torch, array.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"{where}: torch has no dtype {array.dtype.name}")
    if hasattr(ml_dtypes, array.dtype.name):
        # torch takes the types of ml_dtypes only as bytes.
        return torch.from_numpy(array.view(f"u{array.dtype.itemsize}")).view(dtype)
    return torch.from_numpy(array)


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return the tensor as an array, on the same memory if it is contiguous on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    if hasattr(ml_dtypes, name):
        bits = torch.uint8 if tensor.itemsize == 1 else torch.int16
        tensor, dtype = tensor.view(bits), getattr(ml_dtypes, name)
        return tensor.numpy().view(dtype)
    return tensor.numpy()
