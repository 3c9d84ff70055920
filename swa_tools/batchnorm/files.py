"""The recompute from one checkpoint file to another."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from swa_tools import __version__
from swa_tools.batchnorm.conditions import BnOptions, conditions_of
from swa_tools.batchnorm.recompute import Recomputation, recompute
from swa_tools.batchnorm.recorder import batchnorm_layers
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, check_output
from swa_tools.data import ImageSet
from swa_tools.distributed import Distributed
from swa_tools.errors import DataError, SwaToolsError
from swa_tools.models import load_checkpoint, load_state_dict, save_state_dict


def update_checkpoint(
    path: Path,
    output: Path,
    images: ImageSet,
    *,
    options: BnOptions,
    context: Distributed,
    model: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    entry: str | None = None,
    image_size: int | None = None,
    force: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Recomputation:
    """Write a checkpoint again with BatchNorm statistics measured on images.

    All other tensors keep their bytes and dtypes. Rank 0 writes.

    Args:
        path: The checkpoint.
        output: Safetensors file to write.
        images: Training images.
        options: How the statistics are measured.
        context: The processes that share the work.
        model: Name of the model, for files that do not say it; see `models.load_checkpoint`.
        model_kwargs: Arguments of its constructor, for the same.
        num_classes: Its outputs, for the same.
        entry: Which weights to take from a pickled file that holds several.
        image_size: Input size in pixels; None for the model's own.
        force: Whether an existing output may be replaced.
        on_batch: Called with the number of images after each batch of this rank.

    Raises:
        SwaToolsError: As `load_checkpoint`, `recompute` and `save_state_dict`; nothing is written.
    """
    check_output(output, force=force)
    built, metadata = load_checkpoint(
        path,
        model=model,
        kwargs=model_kwargs,
        num_classes=num_classes,
        entry=entry,
        image_size=image_size,
    )
    module = built.module.to(context.device)
    if options.channels_last:
        module = module.to(memory_format=torch.channels_last)
    try:
        recomputation = recompute(
            [module],
            images,
            preprocessing=built.preprocessing,
            options=options,
            conditions=conditions_of(options, metadata, built.preprocessing),
            context=context,
            on_batch=on_batch,
        )
    except DataError:
        raise
    except SwaToolsError as error:
        raise SwaToolsError(f"{path}: {error}") from error
    if context.is_main:
        statistics = {
            f"{name}.{key}": buffer
            for name, layer in batchnorm_layers(module).items()
            for key, buffer in layer.named_buffers(recurse=False)
        }
        metadata = metadata or CheckpointMetadata(
            kind="checkpoint", bn=BnInfo(state="unknown"), swa_tools=__version__
        )
        described = dataclasses.replace(
            metadata,
            model=built.info,
            preprocessing=built.preprocessing,
            bn=recomputation.bn,
            swa_tools=__version__,
        )
        state_dict = load_state_dict(path, entry=entry) | statistics
        save_state_dict(output, state_dict, described, force=force)
    context.barrier()
    return recomputation
