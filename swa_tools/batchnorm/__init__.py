"""BatchNorm statistics: measure them again for averaged weights.

The names are imported when they are first used: `swa_tools.batchnorm.options` needs no torch.
"""

from typing import TYPE_CHECKING

from swa_tools.lazy_names import lazy_names

if TYPE_CHECKING:
    from swa_tools.batchnorm.conditions import Conditions, conditions_of
    from swa_tools.batchnorm.options import BnOptions, Estimator, ViewOptions
    from swa_tools.batchnorm.recomputation import Recomputation, recompute
    from swa_tools.batchnorm.recorder import batchnorm_layers
    from swa_tools.batchnorm.update import BnReport, update_bn, update_bn_many
    from swa_tools.batchnorm.update_file import update_checkpoint

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "conditions": ("Conditions", "conditions_of"),
        "update_file": ("update_checkpoint",),
        "options": ("BnOptions", "Estimator", "ViewOptions"),
        "recomputation": ("Recomputation", "recompute"),
        "recorder": ("batchnorm_layers",),
        "update": ("BnReport", "update_bn", "update_bn_many"),
    },
)
