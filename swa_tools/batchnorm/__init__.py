"""BatchNorm statistics: measure them again for weights that were averaged."""

from swa_tools.batchnorm.conditions import BnOptions, Conditions, conditions_of
from swa_tools.batchnorm.estimators import Estimator
from swa_tools.batchnorm.files import update_checkpoint
from swa_tools.batchnorm.recompute import Recomputation, recompute
from swa_tools.batchnorm.recorder import batchnorm_layers
from swa_tools.batchnorm.update import BnReport, update_bn, update_bn_many

__all__ = [
    "BnOptions",
    "BnReport",
    "Conditions",
    "Estimator",
    "Recomputation",
    "batchnorm_layers",
    "conditions_of",
    "recompute",
    "update_bn",
    "update_bn_many",
    "update_checkpoint",
]
