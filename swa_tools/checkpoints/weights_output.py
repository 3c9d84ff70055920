"""Outputs of weights, in the format that their names say."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from swa_tools.checkpoints.dtypes import safetensors_dtype
from swa_tools.checkpoints.metadata import CheckpointMetadata
from swa_tools.checkpoints.remote import as_path
from swa_tools.checkpoints.writer import (
    SafetensorsWriter,
    atomic_output,
    check_output,
    file_metadata,
    temporary_file,
)
from swa_tools.errors import OutputError

WEIGHTS_SUFFIX = ".safetensors"

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
"""Ends of the names of files that are expected to be those of `torch.save`."""


@contextlib.contextmanager
def weights_output(path: str | Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write safetensors to, as `atomic_output` does.

    Where the output has a name of PyTorch's files, what was written becomes a file of `torch.save`
    at the end: a plain state dict, without metadata.

    Raises:
        OutputError: The output exists and `force` is not set, or cannot be written.
    """
    path = as_path(path)
    check_weights_output(path, force=force)
    if not is_torch_name(path):
        with atomic_output(path, force=force) as file:
            yield file
        return
    with atomic_output(path, force=force) as output, temporary_file(path) as file:
        yield file
        file.flush()
        _save_as_torch(Path(file.name), output)


def check_weights_output(path: Path, *, force: bool = False, needs_metadata: bool = False) -> None:
    """Tell early whether an output of weights could be written; see `check_output`.

    Args:
        path: The output.
        force: Whether an existing file may be replaced.
        needs_metadata: Whether the file must say which model it belongs to.

    Raises:
        OutputError: As `check_output`, or its name is that of another format.
    """
    if needs_metadata and is_torch_name(path):
        raise OutputError(
            f"{path}: torch's files keep no metadata, which the scores need; write a"
            f" {WEIGHTS_SUFFIX} file, and convert it with `swa-tools average FILE -o {path.name}`"
        )
    if path.suffix and not path.name.lower().endswith((WEIGHTS_SUFFIX, *TORCH_SUFFIXES)):
        raise OutputError(
            f"{path}: the name of an output says its format: expected {WEIGHTS_SUFFIX}, one of"
            f" torch.save's ({', '.join(TORCH_SUFFIXES)}), or a folder for timm, {path}/"
        )
    check_output(path, force=force)


def is_torch_name(path: Path) -> bool:
    """Tell whether a file of this name is expected to be one of `torch.save`."""
    return path.name.lower().endswith(TORCH_SUFFIXES)


def _save_as_torch(safetensors_file: Path, output: BinaryIO) -> None:
    import torch
    from safetensors import safe_open

    with safe_open(safetensors_file, "pt") as file:
        ties = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    tensors |= {name: tensors[target] for name, target in ties.items() if target in tensors}
    torch.save(tensors, output)


def write_checkpoint(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    metadata: CheckpointMetadata | None,
    *,
    ties: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write arrays as a safetensors file, whole or not at all.

    Args:
        path: The output; `.pth`, `.pt`, `.bin` and `.ckpt` become files of `torch.save`, which keep
            no metadata.
        tensors: Arrays by name; any memory layout, written in C order. dtypes as NumPy and
            ml_dtypes have them.
        metadata: See `checkpoints.metadata`.
        ties: See `file_metadata`.
        force: Whether an existing file may be replaced.

    Raises:
        OutputError: The output exists and `force` is not set, or cannot be written.
        CheckpointError: safetensors has no such dtype.
    """
    layout = {
        name: (safetensors_dtype(array.dtype), array.shape) for name, array in tensors.items()
    }
    with weights_output(path, force=force) as file:
        writer = SafetensorsWriter(file, layout, file_metadata(metadata, ties))
        for name, array in tensors.items():
            stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            writer.write(name, 0, stored.reshape(-1).view(np.uint8).data)
