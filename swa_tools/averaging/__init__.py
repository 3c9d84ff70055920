"""Average checkpoint files offline: weightings, plan, the streaming kernel. No torch."""

from swa_tools.averaging.average import (
    AverageOptions,
    AverageResult,
    average_checkpoints,
    open_all,
)
from swa_tools.averaging.choose import Selection, select
from swa_tools.averaging.describe import describe
from swa_tools.averaging.duplicates import Duplicate, find_duplicates
from swa_tools.averaging.kernel import iterate_average, run_average
from swa_tools.averaging.plan import AveragePlan, TensorPlan, plan_average
from swa_tools.averaging.running import average_running, iterate_running
from swa_tools.averaging.weighting import Ema, Interpolate, Uniform, Weighting, Weights

__all__ = [
    "AverageOptions",
    "AveragePlan",
    "AverageResult",
    "Duplicate",
    "Ema",
    "Interpolate",
    "Selection",
    "TensorPlan",
    "Uniform",
    "Weighting",
    "Weights",
    "average_checkpoints",
    "average_running",
    "describe",
    "find_duplicates",
    "iterate_average",
    "iterate_running",
    "open_all",
    "plan_average",
    "run_average",
    "select",
]
