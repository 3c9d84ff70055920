"""A run before it starts: how many steps, which cycles, what it will write."""

import dataclasses
import functools
import math
import re
from typing import Any

from torch import nn

from swa_tools.errors import TrainingError
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.schedule_options import build_schedule, steps_of
from swa_tools.training.schedules import Schedule


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How often something happens: after a number of steps or minutes; both None for never."""

    steps: int | None = None
    minutes: float | None = None

    def includes(self, step: int) -> bool:
        """Tell whether it happens after this step, counted from 1."""
        return self.steps is not None and step % self.steps == 0


def parse_interval(text: str, *, flag: str, steps_per_epoch: int, minutes: bool) -> Interval:
    """Read `500`, `500steps`, `0.25epochs`, `10min`, `cycle` or `never`.

    `cycle` gives no interval: the end of every cycle counts in any case.

    Args:
        text: What the user wrote.
        flag: The option that it was written for, for the error.
        steps_per_epoch: Converts epochs to steps.
        minutes: Whether minutes are allowed.

    Raises:
        TrainingError: The text is none of these, or not above 0.
    """
    if text in ("cycle", "never"):
        return Interval()
    match = re.fullmatch(r"([0-9.]+) *(steps?|epochs?|min|)", text)
    unit = match[2] if match else ""
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        value = 0.0
    if unit.startswith("epoch"):
        value = steps_of(value, steps_per_epoch)
    is_whole = unit == "min" or value == math.floor(value)
    if value <= 0 or not is_whole or (unit == "min" and not minutes):
        examples = "500steps, 0.25epochs" + (", 10min" if minutes else "") + ", cycle or never"
        raise TrainingError(f"{flag} {text}: expected an interval of at least one step: {examples}")
    return Interval(minutes=value) if unit == "min" else Interval(steps=int(value))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run is going to do.

    Attributes:
        schedule: The learning rate of every step.
        n_images: Number of training images.
        batch_size: Number of images in an optimizer step.
        world_size: Number of ranks that share a batch.
        accumulate: Number of pieces that a rank computes its share in.
        steps_per_epoch: Optimizer steps in an epoch; a last incomplete batch is left out.
        n_steps: Optimizer steps in the run.
        validate_every, resume_every: How often to do so in addition to captures.
    """

    schedule: Schedule
    n_images: int
    batch_size: int
    world_size: int
    accumulate: int
    steps_per_epoch: int
    n_steps: int
    validate_every: Interval
    resume_every: Interval

    @property
    def captures(self) -> range:
        """The steps after which checkpoints are taken."""
        return self.schedule.captures(self.n_steps)

    @property
    def piece_size(self) -> int:
        """The most images that a rank computes at once."""
        return -(-self.batch_size // (self.world_size * self.accumulate))

    @property
    def incomplete_cycle(self) -> str | None:
        """One line about a last cycle that the run does not complete; None if it does."""
        missing = self.schedule.incomplete_steps(self.n_steps)
        if not missing:
            return None
        cycle = self.schedule.cycle(self.n_steps)
        return (
            f"cycle {cycle} is not completed: the run ends after {missing} of its"
            f" {self.schedule.cycle_steps} steps, and no checkpoint is taken in it"
        )

    def epoch(self, step: int) -> float:
        """Return the passes over the training images completed after a step."""
        return step / self.steps_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        captures = [
            {
                "step": step,
                "epoch": self.epoch(step),
                "cycle": self.schedule.cycle(step),
                "lr": self.schedule.lr(step),
            }
            for step in self.captures
        ]
        return {
            "n_images": self.n_images,
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "accumulate": self.accumulate,
            "piece_size": self.piece_size,
            "steps_per_epoch": self.steps_per_epoch,
            "n_steps": self.n_steps,
            "n_epochs": self.epoch(self.n_steps),
            "schedule": self.schedule.to_dict(),
            "lr_first": self.schedule.lr(1),
            "lr_last": self.schedule.lr(self.n_steps),
            "captures": captures,
            "incomplete_cycle": self.incomplete_cycle,
        }


def plan_run(
    options: FinetuneOptions, *, n_images: int, steps_per_epoch: int, world_size: int = 1
) -> RunPlan:
    """Plan a run over so many training images.

    Raises:
        TrainingError: The run has no step, or the schedule makes no sense.
    """
    epochs, accumulate = options.epochs, options.accumulate
    batch_size = min(options.batch_size, n_images)
    if not math.isfinite(epochs):
        raise TrainingError(f"--epochs {epochs:g}: expected a finite number")
    n_steps = steps_of(epochs, steps_per_epoch)
    if n_steps < 1:
        raise TrainingError(
            f"--epochs {epochs:g}: less than one step, an epoch has {steps_per_epoch} steps here;"
            " give more epochs"
        )
    if accumulate < 1 or accumulate * world_size > batch_size:
        raise TrainingError(
            f"--accumulate {accumulate}: expected from 1 to"
            f" {batch_size // world_size} pieces for a batch of {batch_size} images on"
            f" {world_size} ranks"
        )
    interval = functools.partial(parse_interval, steps_per_epoch=steps_per_epoch)
    return RunPlan(
        schedule=build_schedule(options.schedule, steps_per_epoch=steps_per_epoch, n_epochs=epochs),
        n_images=n_images,
        batch_size=batch_size,
        world_size=world_size,
        accumulate=accumulate,
        steps_per_epoch=steps_per_epoch,
        n_steps=n_steps,
        validate_every=interval(options.validate_every, flag="--validate-every", minutes=False),
        resume_every=interval(options.resume_every, flag="--resume-every", minutes=True),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunSizes:
    """The sizes of a run's files in bytes, except its records, which are small.

    Attributes:
        checkpoint_bytes: One checkpoint.
        n_kept: The most captures that are kept; with `--keep-checkpoints none` the newest stays
            until the run is over.
        captures_bytes: The captures that are kept.
        ema_bytes: The moving averages saved with them.
        start_bytes: The starting weights.
        average_bytes: The average of the captures.
        resume_bytes: The point to resume from: weights, optimizer, moving and running averages. It
            is on the disk twice while it is being replaced.
    """

    checkpoint_bytes: int
    n_kept: int
    captures_bytes: int
    ema_bytes: int
    start_bytes: int
    average_bytes: int
    resume_bytes: int

    @property
    def total_bytes(self) -> int:
        """The most that all files take together."""
        kept = self.captures_bytes + self.ema_bytes + self.start_bytes + self.average_bytes
        return kept + 2 * self.resume_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes for JSON."""
        return {**dataclasses.asdict(self), "total_bytes": self.total_bytes}


def measure_run(
    module: nn.Module, options: FinetuneOptions, plan: RunPlan, *, has_average: bool
) -> RunSizes:
    """Return how much disk space a run will take.

    Args:
        module: The run's network.
        options: The options of the run.
        plan: The plan that follows from them.
        has_average: Whether the captures are averaged into the run directory.
    """
    tensors = list(module.state_dict().values())
    checkpoint = sum(tensor.nbytes for tensor in tensors)
    online = sum(t.numel() * (8 if t.is_floating_point() else t.itemsize) for t in tensors)
    trained = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    n_buffers = 2 if options.optimizer.optimizer == "adamw" else int(options.optimizer.momentum > 0)
    has_ema = options.ema is not None
    n_kept = len(plan.captures)
    if options.keep_checkpoints is not None:
        n_kept = min(n_kept, max(1, options.keep_checkpoints))
    return RunSizes(
        checkpoint_bytes=checkpoint,
        n_kept=n_kept,
        captures_bytes=n_kept * checkpoint,
        ema_bytes=n_kept * checkpoint * has_ema,
        start_bytes=checkpoint,
        average_bytes=checkpoint * has_average,
        resume_bytes=checkpoint * (1 + has_ema) + n_buffers * trained + online * options.swa_online,
    )
