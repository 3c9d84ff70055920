"""Logits on disk: computed once, used by everything that looks at predictions.

One safetensors file per checkpoint and set of images holds the tensors `logits` (N, C), float32,
and `targets` (N,), int64, in the order of the set. Its name contains a digest of everything that
the logits depend on, so logits of other weights, images or preprocessing are never used instead.
The images enter the digest by their names alone: after replacing an image with another of the same
name, remove the file.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import xxhash

from swa_tools.checkpoints import SafetensorsWriter, atomic_output, open_checkpoint
from swa_tools.data import Batch, ImageSet
from swa_tools.distributed import Distributed
from swa_tools.errors import CheckpointError, OutputError
from swa_tools.evaluation.one_pass import Predictor

METADATA_KEY = "swa_tools_logits"


def logits_path(folder: Path, *, checkpoint: str, origin: Mapping[str, Any]) -> Path:
    """Return the file of a checkpoint's logits.

    Args:
        folder: The folder of `--save-logits`.
        checkpoint: The checkpoint's name; the file's name begins with it.
        origin: Everything that the logits depend on, as JSON values.
    """
    text = json.dumps(origin, sort_keys=True)
    stem = checkpoint.removesuffix(".safetensors")
    return folder / f"{stem}-{xxhash.xxh3_64_hexdigest(text.encode())}.logits.safetensors"


@contextlib.contextmanager
def saving(
    predict: Predictor,
    path: Path,
    *,
    images: ImageSet,
    n_outputs: int,
    origin: Mapping[str, Any],
    context: Distributed,
) -> Iterator[Predictor]:
    """Give a predictor that also saves its logits; the file appears if the block ends well.

    All ranks write into one file, so they must see the same file system.

    Args:
        predict: Where the logits come from.
        path: From `logits_path`; its folder is created if it is missing.
        images: The set; each of its images must come once.
        n_outputs: C.
        origin: As `logits_path` was given.
        context: The processes that share the images.

    Raises:
        OutputError: The file cannot be written.
    """
    with _one_file_for_all(path, context) as file:
        layout = {"logits": ("F32", (len(images), n_outputs)), "targets": ("I64", (len(images),))}
        metadata = {METADATA_KEY: json.dumps(origin, sort_keys=True)}
        writer = SafetensorsWriter(file, layout, metadata)
        writer.write("targets", 0, np.asarray(images.targets, dtype="<i8").data)

        def predict_and_save(batch: Batch) -> torch.Tensor:
            logits = predict(batch)
            rows = logits.float().cpu().numpy().astype("<f4", order="C", copy=False)
            for index, row in zip(batch.indices.tolist(), rows, strict=True):
                writer.write("logits", index * row.nbytes, row.data)
            return logits

        yield predict_and_save


@contextlib.contextmanager
def _one_file_for_all(path: Path, context: Distributed) -> Iterator[BinaryIO]:
    if context.is_main:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path.parent}: cannot create this folder: {error.strerror}"
            ) from error
        with atomic_output(path, force=True) as file:
            context.broadcast(file.name)
            yield file
            context.barrier()
    else:
        with open(context.broadcast(""), "rb+") as file:
            yield file
        context.barrier()


@contextlib.contextmanager
def reading(path: Path, *, n_samples: int) -> Iterator[Predictor]:
    """Give a predictor that reads its logits from a file that `saving` wrote, without the images.

    Args:
        path: From `logits_path`.
        n_samples: Number of images in the set.

    Raises:
        CheckpointError: The file does not hold the logits of so many images.
    """
    with open_checkpoint(path) as file:
        info = file.tensors.get("logits")
        if info is None or info.dtype != "F32" or info.shape[:-1] != (n_samples,):
            raise CheckpointError(
                f"{path}: expected saved logits of {n_samples} images; remove it and run again"
            )
        n_outputs = info.shape[-1]

        def predict(batch: Batch) -> torch.Tensor:
            rows = np.empty((len(batch.indices), n_outputs), dtype="<f4")
            for index, row in zip(batch.indices.tolist(), rows, strict=True):
                file.read_into("logits", index * row.nbytes, row.data.cast("B"))
            return torch.from_numpy(rows)

        yield predict


def labels_only(images: ImageSet, *, batch_size: int, context: Distributed) -> Iterator[Batch]:
    """Yield this rank's batches of a set without the images, for logits that are on disk."""
    targets = torch.tensor(images.targets)
    for number, indices in enumerate(torch.split(torch.arange(len(images)), batch_size)):
        if number % context.world_size == context.rank:
            yield Batch(images=torch.empty(0), targets=targets[indices], indices=indices)
