"""The losses of the steps, collected from the device and from all ranks now and then."""

import math

import torch

from swa_tools.distributed import Distributed


class LossLog:
    """The training loss since the last record and in the current epoch.

    Reading a loss waits for the device, so losses are kept there until `collect`.

    Attributes:
        window: The losses since the last `step` record, means over all ranks.
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
            How many steps ago the first loss was that is NaN or Inf; None if all are finite.
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
