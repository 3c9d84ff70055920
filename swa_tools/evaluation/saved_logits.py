"""Logits on disk: computed once, used by everything that looks at predictions.

One safetensors file per checkpoint and set of images holds the tensors `logits` (N, C), float32,
and `targets` (N,), int64, in the order of the set. Its name carries a digest of everything that
the logits depend on, so logits of other weights, images or preprocessing are never taken for it.
The digest of the images is one of their names: after replacing an image by another of the same
name, remove the file.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from swa_tools.checkpoints import Checkpoint, SafetensorsWriter, atomic_output, open_checkpoint
from swa_tools.data import Batch, ImageSet
from swa_tools.distributed import Distributed
from swa_tools.errors import CheckpointError, OutputError
from swa_tools.evaluation.evaluate import Predictor

METADATA_KEY = "swa_tools_logits"


def logits_path(folder: Path, *, checkpoint: str, origin: Mapping[str, Any]) -> Path:
    """Return where the logits of a checkpoint stand.

    Args:
        folder: The folder of `--save-logits`.
        checkpoint: The checkpoint's name, which the file's begins with.
        origin: Everything that the logits depend on, as JSON values.
    """
    text = json.dumps(origin, sort_keys=True)
    stem = checkpoint.removesuffix(".safetensors")
    return folder / f"{stem}-{xxhash.xxh3_64_hexdigest(text)}.logits.safetensors"


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
    """Give a predictor that also writes its logits; the file appears when the block ends well.

    All ranks write into one file, so they must see the same file system.

    Args:
        predict: Where the logits come from.
        path: From `logits_path`; its folder is made.
        images: The whole set; every image must come in one batch of one rank.
        n_outputs: C.
        origin: What `logits_path` was given.
        context: The processes that share the images.

    Raises:
        OutputError: The file cannot be written.
    """
    with _shared_file(path, context) as file:
        writer = SafetensorsWriter(
            file,
            {"logits": ("F32", (len(images), n_outputs)), "targets": ("I64", (len(images),))},
            {METADATA_KEY: json.dumps(origin, sort_keys=True)},
        )
        writer.write("targets", 0, np.asarray(images.targets, dtype="<i8").data)

        def predict_and_save(batch: Batch) -> torch.Tensor:
            logits = predict(batch)
            rows = logits.float().cpu().contiguous().numpy()
            for start, stop in _runs(batch.indices.tolist()):
                writer.write("logits", batch_start...)
            return logits

        yield predict_and_save
