"""A run in progress: everything that its loop works with."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from swa_tools import __version__
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, DataInfo, TrainingInfo
from swa_tools.distributed import Distributed
from swa_tools.models import has_batchnorm
from swa_tools.run_directory import RunDirectory
from swa_tools.training.averages import OnlineAverage
from swa_tools.training.batches import Loaders
from swa_tools.training.interrupts import Votes
from swa_tools.training.network import Network
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.progress import LossLog, RunListener, Stopwatch
from swa_tools.training.run_plan import RunPlan
from swa_tools.training.start import Start, training_view_of


@dataclasses.dataclass(slots=True, kw_only=True)
class Run:
    """A run in progress. The loop sets only the last five attributes.

    Attributes:
        options: What the user asked for.
        plan: What follows from the options.
        settings: What a resumed run must have in common with this one.
        context: The ranks.
        directory: Where rank 0 writes.
        listener: Who is told, on rank 0.
        start: Where the run began.
        loaders: Where its batches come from.
        network: What is trained, and what trains it.
        online: The average of its captures, if the run keeps one.
        losses, watch: What is measured during the run.
        votes: How the ranks share what one of them knows.
        step: Optimizer steps completed.
        validated_step: The last step that was validated; None before the first.
        saved: (step, validated_step) of the newest resume point; None before the first.
        saved_at: When that was written, on the monotonic clock, in seconds.
        n_skipped: Number of images that could not be read, on all ranks; known at the end.
    """

    options: FinetuneOptions
    plan: RunPlan
    settings: dict[str, Any]
    context: Distributed
    directory: RunDirectory
    listener: RunListener
    start: Start
    loaders: Loaders
    network: Network
    online: OnlineAverage | None
    losses: LossLog = dataclasses.field(init=False)
    watch: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    votes: Votes = dataclasses.field(init=False)
    step: int = 0
    validated_step: int | None = None
    saved: tuple[int, int | None] | None = None
    saved_at: float = dataclasses.field(default_factory=time.monotonic)
    n_skipped: int = 0

    def __post_init__(self) -> None:
        """Continue from the point to resume from, if there is one."""
        point = self.start.point
        if point is None:
            self.losses = LossLog(window=[], epoch_loss=0.0)
        else:
            self.step, self.validated_step = point.step, point.validated_step
            self.saved = (point.step, point.validated_step)
            self.losses = LossLog(window=list(point.window_losses), epoch_loss=point.epoch_loss)
        self.votes = Votes(self.context, step=self.step)

    @property
    def lr(self) -> float:
        """Learning rate of the last completed step."""
        return self.plan.schedule.lr(max(1, self.step))

    @property
    def bn(self) -> BnInfo:
        """State of the running statistics of the trained weights."""
        return BnInfo(state="trained" if has_batchnorm(self.network.module) else "none")

    @property
    def data(self) -> DataInfo:
        """The training images, and how many of them BatchNorm normalises together."""
        ranks = self.context.world_size if self.options.sync_bn else 1
        return DataInfo(
            n_samples=self.plan.n_images,
            digest=self.settings["names of the training images"],
            batch_size=ranks * self.plan.piece_size,
            seed=self.options.seed,
        )

    def is_overdue(self) -> bool:
        """Tell whether the newest resume point is older than the user allows."""
        minutes = self.plan.resume_every.minutes
        return minutes is not None and time.monotonic() - self.saved_at > 60 * minutes

    def capture_path(self, step: int) -> Path:
        """Return the file of the capture taken after a step."""
        return self.directory.capture(self.plan.schedule.cycle(step))

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
        """Return how the user can continue a run that has stopped."""
        step = 0 if self.saved is None else self.saved[0]
        return f"--resume {self.directory.path} continues from step {step}"
