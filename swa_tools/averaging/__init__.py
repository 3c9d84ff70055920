"""Average checkpoint files offline: weightings, plan, streaming kernel, running mean. No torch."""

from swa_tools.averaging.average import (
    AverageOptions,
    AverageResult,
    average_checkpoints,
    open_all,
)
from swa_tools.averaging.choose import Choice, Selection, choose
from swa_tools.averaging.describe import describe_average
from swa_tools.averaging.kernel import iterate_average, run_average
from swa_tools.averaging.plan import AveragePlan, TensorPlan, plan_average
from swa_tools.averaging.rules import TensorRules
from swa_tools.averaging.running_mean import RunningMean, iterate_running
from swa_tools.averaging.same_weights import Duplicate, find_duplicates
from swa_tools.averaging.weighting import (
    Ema,
    Interpolate,
    Uniform,
    Weighting,
    WeightingOptions,
    Weights,
)
