"""What is measured as a run proceeds, and what it tells its listener."""

import dataclasses
import math
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from swa_tools.distributed import Distributed
from swa_tools.listening import Listener, unheard
from swa_tools.records import Record
from swa_tools.training.run_plan import RunPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is after a step.

    Attributes:
        step: Optimizer steps completed.
        n_steps: Optimizer steps in the run.
        epoch: Passes over the training images completed.
        cycle: Number of the cycle; None without cycles.
        lr: Learning rate of the step.
        loss: The newest loss that was read from the device; None before the first.
        images_per_second: Rate of training over all ranks, since the last pause for a checkpoint or
            a validation.
        seconds_left: Time for the remaining steps at this rate, without pauses.
    """

    step: int
    n_steps: int
    epoch: float
    cycle: int | None
    lr: float
    loss: float | None
    images_per_second: float
    seconds_left: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """How a run ended.

    Attributes:
        run: The run directory.
        step, n_steps: Optimizer steps done and planned.
        captures: The captures that still exist, including those from before the run was resumed.
        average: The average of all captures, if the run has kept one and scored it.
        resumed_step: The step from which this process resumed; None if it began the run.
        stopped_by: The signal that stopped the run; None if it is complete.
        images_per_second: Rate of training, without pauses.
        seconds_saving: Time spent on resume points.
        n_skipped: Number of images that could not be read and were left out.
    """

    run: Path
    step: int
    n_steps: int
    captures: tuple[Path, ...]
    average: Path | None
    resumed_step: int | None
    stopped_by: signal.Signals | None
    images_per_second: float
    seconds_saving: float
    n_skipped: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunListener(Listener):
    """Functions that a run calls, on rank 0 alone; by default nobody hears it.

    Attributes:
        on_plan: Once, before the first step.
        on_progress: After each step.
        on_record: For each record that goes into the metrics.
    """

    on_plan: Callable[[RunPlan], None] = unheard
    on_progress: Callable[[Progress], None] = unheard
    on_record: Callable[[Record], None] = unheard


class Stopwatch:
    """Measures how fast a run trains, and how long it waits for its data.

    Attributes:
        total_images, total_seconds: Images and seconds of the run, without pauses.
        saving_seconds: Seconds of the pauses for resume points.
    """

    def __init__(self) -> None:
        self.total_images = 0
        self.total_seconds = 0.0
        self.saving_seconds = 0.0
        self._waited = 0.0
        self._images = 0
        self._start = time.monotonic()
        self._told = self._spent()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def count(self, n_images: int) -> None:
        """Count the images of a step."""
        self._images += n_images

    @property
    def images_per_second(self) -> float:
        """The rate since the last pause."""
        return self._images / max(time.monotonic() - self._start, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the block, and begin a new rate after it."""
        start = time.monotonic()
        self.total_images += self._images
        self.total_seconds += start - self._start
        yield
        self._start = time.monotonic()
        self._images = 0

    def stall(
        self, *, least_seconds: float = 30.0, least_share: float = 0.3, most_faults: float = 100.0
    ) -> str | None:
        """Return a line for the user if training was slowed down since the last call; else None.

        Data that come too slowly are one reason. The other is too little memory: pages that were
        swapped out to disk are read back again.

        Args:
            least_seconds: A shorter time says nothing; it is counted in the next call.
            least_share: A smaller share of the time spent waiting for data is not mentioned.
            most_faults: Number of pages that may be read from disk per second.
        """
        spent = self._spent()
        seconds, waited, faults = (
            now - before for now, before in zip(spent, self._told, strict=True)
        )
        if seconds < least_seconds:
            return None
        self._told = spent
        if faults > most_faults * seconds:
            return (
                f"memory is short: {faults / seconds:,.0f} pages per second are read back from"
                " disk; try a smaller --batch-size or fewer --workers"
            )
        if waited < least_share * seconds:
            return None
        return (
            f"{100 * waited / seconds:.0f} % of the time was spent waiting for data; try more"
            " --workers"
        )

    def _spent(self) -> tuple[float, float, int]:
        """Return the seconds of training, those of waiting, and the pages read from disk."""
        seconds = self.total_seconds + time.monotonic() - self._start
        return seconds, self._waited, resource.getrusage(resource.RUSAGE_SELF).ru_majflt


class LossLog:
    """The training loss since the last record and in the current epoch.

    Reading a loss waits for the device, so losses are kept there until `collect`.

    Attributes:
        window: The losses since the last `step` record, each the mean over all ranks.
        epoch_loss: Sum of the losses of the epoch so far.
        last: The newest loss; None before the first.
    """

    def __init__(self, *, window: list[float], epoch_loss: float) -> None:
        self.window = window
        self.epoch_loss = epoch_loss
        self.last: float | None = None
        self._pending: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor) -> None:
        """Note the loss of a step, a scalar on the device."""
        self._pending.append(loss)

    def collect(self, context: Distributed) -> int | None:
        """Wait for the noted losses and average them over the ranks; all ranks must call this.

        Returns:
            How many steps ago the first loss that is NaN or Inf came; None if all are finite.
        """
        if not self._pending:
            return None
        losses = torch.stack(self._pending).cpu().double()
        values: list[float] = (context.sum(losses) / context.world_size).tolist()
        self._pending.clear()
        for value in values:
            self.window.append(value)
            self.epoch_loss += value
        self.last = values[-1]
        bad = [number for number, value in enumerate(values) if not math.isfinite(value)]
        return len(values) - 1 - bad[0] if bad else None

    def close_window(self) -> float:
        """Return the mean loss since the last call and begin again."""
        mean = sum(self.window) / len(self.window)
        self.window = []
        return mean

    def close_epoch(self, n_steps: int) -> float:
        """Return the mean loss of an epoch of `n_steps` and begin again."""
        mean = self.epoch_loss / n_steps
        self.epoch_loss = 0.0
        return mean
