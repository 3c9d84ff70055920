"""The network of a run on its device, with its optimizer and its moving average."""

from typing import Any

import timm.layers
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.errors import TrainingError
from swa_tools.models import load_into
from swa_tools.training.ema import ExponentialAverage
from swa_tools.training.failures import enough_memory
from swa_tools.training.optimizer import build_optimizer, load_optimizer
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.start import Start, together
from swa_tools.training.step import Stepper


def check_network(options: FinetuneOptions, context: Distributed) -> None:
    """Tell early what `build_network` cannot do.

    Raises:
        TrainingError: There is such a thing.
    """
    if options.sync_bn and (context.device.type != "cuda" or context.world_size == 1):
        raise TrainingError("--sync-bn needs several processes, each with a CUDA GPU")


def build_network(
    options: FinetuneOptions, start: Start, *, context: Distributed, steps_before: int
) -> tuple[nn.Module, Stepper, ExponentialAverage | None]:
    """Bring the model to the device, with its optimizer and all state of a resumed run.

    Args:
        options: The run.
        start: Its model, and the state to begin with.
        context: The ranks; all of them must call this.
        steps_before: Steps of the runs that this one continues.

    Returns:
        The plain network, what trains it, and its moving average if one is kept.

    Raises:
        TrainingError: Memory is short.
    """
    module = together(context, lambda: _on_device(options, start.built.module, context))
    with enough_memory(context.device):
        model = _wrapped(module, options, context)

    def build() -> tuple[Stepper, ExponentialAverage | None]:
        with enough_memory(context.device):
            ema = None if options.ema is None else ExponentialAverage(module, decay=options.ema)
            stepper = Stepper(
                model=model,
                optimizer=build_optimizer(module, options.optimizer),
                scaler=_scaler(options, context),
                amp=amp_dtype(options.amp, context.device),
                pieces=options.accumulate,
                label_smoothing=options.label_smoothing,
                clip_grad=options.optimizer.clip_grad,
                seed=options.seed,
                rank=context.rank,
                steps_before=steps_before,
            )
            _load_state(stepper, ema, start)
            return stepper, ema

    return module, *together(context, build)


def _on_device(options: FinetuneOptions, module: nn.Module, context: Distributed) -> nn.Module:
    if options.sync_bn:
        # torch's own does not know timm's layers.
        module = timm.layers.convert_sync_batchnorm(module)  # type: ignore[attr-defined, no-untyped-call]
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    with enough_memory(context.device):
        module = module.to(context.device, memory_format=layout)  # type: ignore[call-overload]
    return module.train()


def _wrapped(module: nn.Module, options: FinetuneOptions, context: Distributed) -> nn.Module:
    """Return what runs forward; gives the weights of rank 0 to all."""
    model: Any = torch.compile(module) if options.compile else module
    if context.world_size > 1:
        model = DistributedDataParallel(
            model,
            device_ids=[context.device] if context.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    return model  # type: ignore[no-any-return]  # torch.compile gives a module for a module.


def _scaler(options: FinetuneOptions, context: Distributed) -> torch.amp.GradScaler:
    is_half = amp_dtype(options.amp, context.device) == torch.float16
    return torch.amp.GradScaler(context.device.type, enabled=is_half)


def _load_state(stepper: Stepper, ema: ExponentialAverage | None, start: Start) -> None:
    point = start.point
    before = point or start.earlier
    if before is not None:
        load_optimizer(stepper.optimizer, before.optimizer)
    if point is None:
        return
    stepper.scaler.load_state_dict(point.scaler)
    if ema is not None and point.ema is not None:
        load_into(ema.module, point.ema, where="the moving average")
