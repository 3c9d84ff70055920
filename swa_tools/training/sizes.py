"""What a run will take of the disk."""

import dataclasses
from typing import Any

from torch import nn

from swa_tools.training.options import FinetuneOptions
from swa_tools.training.plan import RunPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunSizes:
    """The bytes of a run's files, but for its records, which are small.

    Attributes:
        checkpoint_bytes: One checkpoint.
        n_kept: How many captures lie there at the end of the run; of `--keep-checkpoints none`
            the newest, until it is over.
        captures_bytes: The captures that are kept.
        ema_bytes: Those of the moving average beside them.
        start_bytes: The starting weights.
        average_bytes: The average of the captures.
        resume_bytes: The point to resume from: weights, optimizer, moving and running averages.
            It lies there twice while it is replaced.
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
        """All of them together, at most."""
        kept = self.captures_bytes + self.ema_bytes + self.start_bytes + self.average_bytes
        return kept + 2 * self.resume_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes for JSON."""
        return {**dataclasses.asdict(self), "total_bytes": self.total_bytes}


def measure_run(
    module: nn.Module, options: FinetuneOptions, plan: RunPlan, *, has_average: bool
) -> RunSizes:
    """Return what a run will take of the disk.

    Args:
        module: Its network.
        options: The run.
        plan: What follows from them.
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
