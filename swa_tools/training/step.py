"""One optimizer step."""

import contextlib
import dataclasses

import torch
import torch.nn.functional as F
import xxhash
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swa_tools.errors import ModelError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stepper:
    """Everything that a step needs besides its batch and its learning rate.

    Attributes:
        model: What runs forward: the module itself, compiled or wrapped for data parallelism.
        optimizer: Over the module's parameters.
        scaler: Of the loss; does nothing unless the step computes in float16.
        amp: dtype of mixed precision; None for full precision.
        pieces: How many pieces a batch is computed in.
        label_smoothing: Of the cross entropy.
        clip_grad: Largest global norm of the gradients; None for no clipping.
        seed, rank: What dropout and stochastic depth are drawn from, together with the step.
        steps_before: Steps of the runs that this one continues: the numbers are not drawn again.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    amp: torch.dtype | None
    pieces: int
    label_smoothing: float
    clip_grad: float | None
    seed: int
    rank: int
    steps_before: int = 0

    def take(
        self, images: torch.Tensor, targets: torch.Tensor, *, step: int, lr: float
    ) -> torch.Tensor:
        """Update the weights from this rank's share of a batch.

        Args:
            images: Normalised, (N, 3, H, W), on the device of the model.
            targets: Outputs of the model, int64, (N,).
            step: Its number, from 1: the random numbers of the step depend on it and not on what
                came before, so a resumed run draws the same.
            lr: The learning rate of the step.

        Returns:
            The mean loss over the share, a float32 scalar on the device; it has not been waited
            for.
        """
        _seed(images.device, step_seed(self.seed, step=self.steps_before + step, rank=self.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=images.device)
        image_pieces, target_pieces = images.chunk(self.pieces), targets.chunk(self.pieces)
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
                    f"the model gives a {type(logits).__name__} instead of logits while it"
                    " trains; try --model-kwargs aux_logits=false"
                )
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def _gradients_stay_here(self, *, unless: bool) -> contextlib.AbstractContextManager[None]:
        """Leave the exchange of gradients between ranks to the last piece."""
        if isinstance(self.model, DistributedDataParallel) and not unless:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _update(self) -> None:
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generators that layers draw from.

    torch.manual_seed does it, too, but formats a stack trace each time.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def step_seed(seed: int, *, step: int, rank: int) -> int:
    """Return the seed of a step's random numbers on a rank, below 2^63."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{step}/{rank}".encode()) >> 1
