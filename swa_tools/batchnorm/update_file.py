"""Recompute BatchNorm statistics from one checkpoint file to another."""

import dataclasses
from pathlib import Path

from swa_tools import __version__
from swa_tools.batchnorm.conditions import conditions_of
from swa_tools.batchnorm.options import BnOptions
from swa_tools.batchnorm.recomputation import Recomputation, recompute
from swa_tools.batchnorm.recorder import batchnorm_layers
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, check_weights_output
from swa_tools.data import ImageSet
from swa_tools.distributed import Distributed
from swa_tools.errors import DataError, SwaToolsError
from swa_tools.listening import Listener
from swa_tools.models import ModelChoice, load_checkpoint, load_state_dict, save_state_dict


def update_checkpoint(
    path: Path,
    output: Path,
    images: ImageSet,
    *,
    options: BnOptions,
    context: Distributed,
    choice: ModelChoice | None = None,
    force: bool = False,
    listener: Listener | None = None,
) -> Recomputation:
    """Write a copy of a checkpoint with BatchNorm statistics measured on images.

    All other tensors keep their bytes and dtypes. Rank 0 writes.

    Args:
        path: The checkpoint.
        output: The safetensors file to write.
        images: Training images.
        options: How the statistics are measured.
        context: The processes that share the work.
        choice: Which model the file belongs to, where it does not say.
        force: Whether an existing output may be replaced.
        listener: Who hears how far it is.

    Raises:
        SwaToolsError: As from `load_checkpoint`, `recompute` and `save_state_dict`; nothing is
            written then.
    """
    check_weights_output(output, force=force)
    choice = choice or ModelChoice()
    built, metadata = load_checkpoint(path, choice)
    built = built.on(context.device, channels_last=options.channels_last)
    try:
        n_images = min(options.n_samples or len(images), len(images)) // context.world_size
        with (listener or Listener()).on_stage("recomputing BatchNorm", n_images) as advance:
            recomputation = recompute(
                [built.module],
                images,
                preprocessing=built.preprocessing,
                options=options,
                conditions=conditions_of(options, metadata, built.preprocessing),
                context=context,
                advance=advance,
            )
    except DataError:
        raise
    except SwaToolsError as error:
        raise SwaToolsError(f"{path}: {error}") from error
    if context.is_main:
        statistics = {
            f"{name}.{key}": buffer
            for name, layer in batchnorm_layers(built.module).items()
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
        state_dict = load_state_dict(path, entry=choice.entry) | statistics
        save_state_dict(output, state_dict, described, force=force)
    context.barrier()
    return recomputation
