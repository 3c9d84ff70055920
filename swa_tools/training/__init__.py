"""Fine-tuning: schedules, the loop, resuming.

A run begins in `preparation.open_run`, which turns its options into a `run.Run`: where it starts
(`start`), what it will do (`plan`), what it trains (`network`). `loop.finetune` takes its steps.

The names are imported when they are first used: `swa_tools.training.schedules` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swa_tools.training.loop import finetune
    from swa_tools.training.options import FinetuneOptions, OptimizerOptions
    from swa_tools.training.progress import FinetuneResult
    from swa_tools.training.schedule_options import ScheduleOptions

_MODULES = {
    "FinetuneOptions": "options",
    "FinetuneResult": "progress",
    "OptimizerOptions": "optimizer_options",
    "ScheduleOptions": "schedule_options",
    "finetune": "loop",
}

__all__ = ["FinetuneOptions", "FinetuneResult", "OptimizerOptions", "ScheduleOptions", "finetune"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'swa_tools.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swa_tools.training.{_MODULES[name]}"), name)
