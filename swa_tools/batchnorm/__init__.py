"""BatchNorm statistics: measure them again for averaged weights.

The names are imported when they are first used: `swa_tools.batchnorm.options` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swa_tools.batchnorm.conditions import Conditions, conditions_of
    from swa_tools.batchnorm.files import update_checkpoint
    from swa_tools.batchnorm.options import BnOptions, Estimator, ViewOptions
    from swa_tools.batchnorm.recomputation import Recomputation, recompute
    from swa_tools.batchnorm.recorder import batchnorm_layers
    from swa_tools.batchnorm.update import BnReport, update_bn, update_bn_many

_MODULES = {
    "BnOptions": "batchnorm.options",
    "BnReport": "batchnorm.update",
    "Conditions": "batchnorm.conditions",
    "Estimator": "batchnorm.options",
    "Recomputation": "batchnorm.recomputation",
    "ViewOptions": "batchnorm.options",
    "batchnorm_layers": "batchnorm.recorder",
    "conditions_of": "batchnorm.conditions",
    "recompute": "batchnorm.recomputation",
    "update_bn": "batchnorm.update",
    "update_bn_many": "batchnorm.update",
    "update_checkpoint": "batchnorm.files",
}

__all__ = [
    "BnOptions",
    "BnReport",
    "Conditions",
    "Estimator",
    "Recomputation",
    "ViewOptions",
    "batchnorm_layers",
    "conditions_of",
    "recompute",
    "update_bn",
    "update_bn_many",
    "update_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'swa_tools.batchnorm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swa_tools.{_MODULES[name]}"), name)
