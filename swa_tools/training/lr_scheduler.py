"""A schedule as a `torch.optim` scheduler, for people's own training loops."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from swa_tools.training.schedules import Schedule


class ScheduleLR(LRScheduler):
    """Set the learning rate of every parameter group from a `Schedule`.

    Call `step()` once after each optimizer step, as with torch's own schedulers that count
    batches. The rate is set, not multiplied: the one given to the optimizer does not count. A
    group with its own `lr_scale` gets that multiple.

    Args:
        optimizer: Its groups are changed in place.
        schedule: From `swa_tools.training.schedules`.
        last_epoch: Optimizer steps already done (torch's name for it) less one; -1 to begin.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, *, last_epoch: int = -1) -> None:
        self.schedule = schedule
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Any]:
        """Return the rate of the coming optimizer step, per group."""
        lr = self.schedule.lr(self.last_epoch + 1)
        return [lr * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the position, without the schedule: that is given again when it is built."""
        state: dict[str, Any] = super().state_dict()
        return {key: value for key, value in state.items() if key != "schedule"}
