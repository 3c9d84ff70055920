"""Fine-tuning: schedules, the loop, resuming.

A run begins in `preparation.open_run`, which leads from its options to a `run.Run`: where it starts
(`start`), what it will do (`run_plan`), what it trains (`network`). `loop.finetune` takes its
steps.

The names are imported when they are first used: `swa_tools.training.schedules` needs no torch.
"""

from typing import TYPE_CHECKING

from swa_tools.lazy_names import lazy_names

if TYPE_CHECKING:
    from swa_tools.training.loop import finetune
    from swa_tools.training.options import FinetuneOptions, OptimizerOptions
    from swa_tools.training.progress import FinetuneResult
    from swa_tools.training.schedule_options import ScheduleOptions

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "loop": ("finetune",),
        "options": ("FinetuneOptions", "OptimizerOptions"),
        "progress": ("FinetuneResult",),
        "schedule_options": ("ScheduleOptions",),
    },
)
