"""The network of a run on its device, and the step that trains it."""

import contextlib
import dataclasses
from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
import xxhash
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.errors import ModelError, TrainingError
from swa_tools.models import load_into
from swa_tools.ranks import together
from swa_tools.training.averages import ExponentialAverage
from swa_tools.training.failures import enough_memory
from swa_tools.training.optimizer import build_optimizer, load_optimizer
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.start import Start


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stepper:
    """Everything that a step needs in addition to its batch and learning rate.

    Attributes:
        model: What runs forward: the module itself, compiled or wrapped for data parallelism.
        optimizer: Updates the module's parameters.
        scaler: Scales the loss; does nothing unless the step computes in float16.
        amp: dtype of mixed precision; None for full precision.
        options: The run, whose seed, pieces, label smoothing and clipping count here.
        rank: With seed and step, it determines the random numbers of dropout and stochastic depth.
        steps_before: Steps of the runs that this one continues, so that it draws new numbers.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    amp: torch.dtype | None
    options: FinetuneOptions
    rank: int
    steps_before: int = 0

    def take(
        self, images: torch.Tensor, targets: torch.Tensor, *, step: int, lr: float
    ) -> torch.Tensor:
        """Update the weights from this rank's share of a batch.

        Args:
            images: Normalised images, (N, 3, H, W), on the device of the model.
            targets: The outputs of the model that are right, int64, (N,).
            step: Number of the step, from 1. The step's random numbers depend on it, not on what
                came before, so a resumed run draws the same.
            lr: The learning rate of the step.

        Returns:
            The mean loss over the share, a float32 scalar on the device, which may still be
            computing it.
        """
        seed = step_seed(self.options.seed, step=self.steps_before + step, rank=self.rank)
        _seed(images.device, seed)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=images.device)
        n_pieces = self.options.accumulate
        image_pieces, target_pieces = images.chunk(n_pieces), targets.chunk(n_pieces)
        for number, (piece, piece_targets) in enumerate(
            zip(image_pieces, target_pieces, strict=True), start=1
        ):
            share = len(piece) / len(images)
            with self._gradients_stay_here(unless=number == len(image_pieces)):
                piece_loss = self._loss(piece, piece_targets) * share
                self.scaler.scale(piece_loss).backward()  # type: ignore[no-untyped-call]
            loss += piece_loss.detach()
        self._update()
        return loss

    def _loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits = self.model(images)
            if not isinstance(logits, torch.Tensor):
                raise ModelError(
                    f"the model returns a {type(logits).__name__} instead of logits in training;"
                    " try --model-kwargs aux_logits=false"
                )
            return F.cross_entropy(logits, targets, label_smoothing=self.options.label_smoothing)

    def _gradients_stay_here(self, *, unless: bool) -> contextlib.AbstractContextManager[None]:
        """Exchange gradients between ranks only in the last piece."""
        if isinstance(self.model, DistributedDataParallel) and not unless:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _update(self) -> None:
        clip_grad = self.options.optimizer.clip_grad
        if clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generators that layers draw from.

    torch.manual_seed does so, too, but formats a stack trace each time.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def step_seed(seed: int, *, step: int, rank: int) -> int:
    """Return the seed of a step's random numbers on a rank, below 2^63."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{step}/{rank}".encode()) >> 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What is trained, and what trains it.

    Attributes:
        module: The plain network, on the device.
        stepper: What trains it.
        ema: Its moving average; None if none is kept.
    """

    module: nn.Module
    stepper: Stepper
    ema: ExponentialAverage | None


def check_network(options: FinetuneOptions, context: Distributed) -> None:
    """Check early that `build_network` can do what the options ask for.

    Raises:
        TrainingError: It cannot.
    """
    if options.sync_bn and (context.device.type != "cuda" or context.world_size == 1):
        raise TrainingError(
            "--sync-bn needs several processes, each with a CUDA GPU, found"
            f" {context.world_size} on {context.device.type}; start with torchrun, or leave it out"
        )


def build_network(
    options: FinetuneOptions, start: Start, *, context: Distributed, steps_before: int
) -> Network:
    """Move the model to the device, with its optimizer and all state of a resumed run.

    Args:
        options: The options of the run.
        start: Its model, and the state to begin with.
        context: The ranks; all of them must call this.
        steps_before: Steps of the runs that this one continues.

    Raises:
        TrainingError: There is too little memory.
    """
    module = together(context, lambda: _on_device(options, start.built.module, context))
    with enough_memory(context.device):
        model = _wrapped(module, options, context)

    def build() -> Network:
        with enough_memory(context.device):
            ema = None if options.ema is None else ExponentialAverage(module, decay=options.ema)
            stepper = Stepper(
                model=model,
                optimizer=build_optimizer(module, options.optimizer),
                scaler=_scaler(options, context),
                amp=amp_dtype(options.amp, context.device),
                options=options,
                rank=context.rank,
                steps_before=steps_before,
            )
            _load_state(stepper, ema, start)
            return Network(module=module, stepper=stepper, ema=ema)

    return together(context, build)


def _on_device(options: FinetuneOptions, module: nn.Module, context: Distributed) -> nn.Module:
    if options.sync_bn:
        # torch's own function does not know timm's layers.
        module = timm.layers.convert_sync_batchnorm(module)  # type: ignore[attr-defined, no-untyped-call]
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    with enough_memory(context.device):
        module = module.to(context.device, memory_format=layout)  # type: ignore[call-overload]
    return module.train()


def _wrapped(module: nn.Module, options: FinetuneOptions, context: Distributed) -> nn.Module:
    """Return the model that runs forward; all ranks get the weights of rank 0."""
    model: Any = torch.compile(module) if options.compile else module
    if context.world_size > 1:
        model = DistributedDataParallel(
            model,
            device_ids=[context.device] if context.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    return model  # type: ignore[no-any-return]  # torch.compile returns a module for a module.


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
    if point.scaler:  # empty where the run had another precision until now
        stepper.scaler.load_state_dict(point.scaler)
    if ema is not None and point.ema is not None:
        load_into(ema.module, point.ema, where="the moving average")
