"""Average checkpoint files offline: weightings, plan, the streaming kernel. No torch."""

from swa_tools.averaging.average import AverageResult, average_checkpoints, open_all
from swa_tools.averaging.kernel import iterate_average, run_average
from swa_tools.averaging.plan import AveragePlan, TensorPlan, plan_average
from swa_tools.averaging.weighting import Ema, Interpolate, Uniform, Weighting, Weights

__all__ = [
    "AveragePlan",
    "AverageResult",
    "Ema",
    "Interpolate",
    "TensorPlan",
    "Uniform",
    "Weighting",
    "Weights",
    "average_checkpoints",
    "iterate_average",
    "open_all",
    "plan_average",
    "run_average",
]
