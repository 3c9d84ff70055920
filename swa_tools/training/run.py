"""A run that is under way: everything that its loop works with."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from swa_tools import __version__
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, DataInfo, TrainingInfo
from swa_tools.data import Batch, Loader
from swa_tools.distributed import Distributed
from swa_tools.models import has_batchnorm
from swa_tools.training.agreement import Agreement
from swa_tools.training.ema import ExponentialAverage
from swa_tools.training.intervals import Interval
from swa_tools.training.losses import LossLog
from swa_tools.training.online import OnlineAverage
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.plan import RunPlan
from swa_tools.training.progress import Listener, Stopwatch
from swa_tools.training.run_directory import RunDirectory, capture_name
from swa_tools.training.start import Start, training_view_of
from swa_tools.training.step import Stepper


class EpochLoader(Protocol):
    """Training batches by epoch, real ones or synthetic ones."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    @property
    def skipped(self) -> list[str]:
        """Paths of the bad images left out so far."""

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of the batches of an epoch, from `start_step` on."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Run:
    """A run under way. The loop changes the last five attributes, and no others.

    Attributes:
        options: What the user asked for.
        plan: What follows from it.
        settings: What a resumed run must have in common with this one.
        context: The ranks.
        directory: Where rank 0 writes.
        listener: Who is told, on rank 0.
        start: Where the run began.
        module: The plain network, on the device.
        stepper: What trains it.
        ema: Its moving average, if one is kept.
        online: The average of its captures, if one is kept in the run.
        train: The training images.
        val: The validation images; None where nothing is validated.
        epochs_before: Epochs of the runs that this one continues, whose images are not repeated.
        validate_every, resume_every: Besides at captures.
        losses, watch: What is measured on the way.
        agreement: How the ranks tell each other what one of them knows.
        resumed_step: The step that this process resumed at; None if it began the run.
        step: Optimizer steps completed.
        validated_step: The last step that was validated; None before the first.
        saved: (step, validated_step) of the newest resume point; None before the first.
        saved_at: When that was written, on the monotonic clock.
        n_skipped: Images that could not be read, on all ranks; known at the end.
    """

    options: FinetuneOptions
    plan: RunPlan
    settings: dict[str, Any]
    context: Distributed
    directory: RunDirectory
    listener: Listener
    start: Start
    module: nn.Module
    stepper: Stepper
    ema: ExponentialAverage | None
    online: OnlineAverage | None
    train: EpochLoader
    val: Loader | None
    epochs_before: int
    validate_every: Interval
    resume_every: Interval
    losses: LossLog
    watch: Stopwatch
    agreement: Agreement
    resumed_step: int | None
    step: int
    validated_step: int | None
    saved: tuple[int, int | None] | None
    saved_at: float
    n_skipped: int = 0

    @property
    def lr(self) -> float:
        """Learning rate of the step done last."""
        return self.plan.schedule.lr(max(1, self.step))

    @property
    def bn(self) -> BnInfo:
        """State of the running statistics of weights that are trained here."""
        return BnInfo(state="trained" if has_batchnorm(self.module) else "none")

    @property
    def data(self) -> DataInfo:
        """The training images, and how many BatchNorm normalises together."""
        ranks = self.context.world_size if self.options.sync_bn else 1
        return DataInfo(
            n_samples=self.plan.n_images,
            digest=self.settings["names of the training images"],
            batch_size=ranks * self.plan.piece_size,
            seed=self.options.seed,
        )

    def is_overdue(self) -> bool:
        """Tell whether the newest resume point is older than the user wants."""
        minutes = self.resume_every.minutes
        return minutes is not None and time.monotonic() - self.saved_at > 60 * minutes

    def capture_path(self, step: int) -> Path:
        """Return the file of the capture taken after a step."""
        return self.directory.checkpoints / capture_name(self.plan.schedule.cycle(step))

    def captures(self) -> list[Path]:
        """Return the files of the captures taken so far that are still there."""
        paths = [self.capture_path(step) for step in self.plan.captures if step <= self.step]
        return [path for path in paths if path.exists()]

    @property
    def average(self) -> Path | None:
        """The file of the captures' average, if the run keeps one and has saved it."""
        path = self.directory.average
        return path if self.online is not None and path.exists() else None

    @property
    def is_average_due(self) -> bool:
        """Whether the average of the captures is scored after this step."""
        captures = self.plan.captures
        if self.online is None or self.step not in captures:
            return False
        every = self.options.swa_every
        number = captures.index(self.step) + 1
        return number == len(captures) or (every is not None and number % every == 0)

    def metadata(self, bn: BnInfo, *, at_start: bool = False) -> CheckpointMetadata:
        """Return what a checkpoint taken now says about itself."""
        training = TrainingInfo(
            epoch=self.plan.epoch(self.step),
            step=self.step,
            cycle=self.plan.schedule.cycle(self.step),
            lr=self.lr,
            schedule=self.plan.schedule.to_dict(),
            seed=self.options.seed,
        )
        return CheckpointMetadata(
            kind="checkpoint",
            model=self.start.built.info,
            preprocessing=self.start.built.preprocessing,
            view=training_view_of(self.options, self.start.built.preprocessing),
            data=self.data,
            bn=bn,
            training=None if at_start else training,
            swa_tools=__version__,
        )

    def way_on(self) -> str:
        """Return what to tell the user of a run that has stopped."""
        step = 0 if self.saved is None else self.saved[0]
        return f"--resume {self.directory.path} goes on from step {step}"
