"""Stochastic Weight Averaging for pretrained timm and torchvision models.

The names below are imported when they are first used: `import swa_tools` alone imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from swa_tools.averaging import AverageOptions, average_checkpoints, iterate_average
    from swa_tools.batchnorm import update_bn
    from swa_tools.checkpoints import find_checkpoints, open_checkpoint, write_checkpoint
    from swa_tools.errors import SwaToolsError
    from swa_tools.evaluation import evaluate
    from swa_tools.models import create_model, load_checkpoint

_MODULES = {
    "AverageOptions": "averaging",
    "SwaToolsError": "errors",
    "average_checkpoints": "averaging",
    "create_model": "models",
    "evaluate": "evaluation",
    "find_checkpoints": "checkpoints",
    "iterate_average": "averaging",
    "load_checkpoint": "models",
    "open_checkpoint": "checkpoints",
    "update_bn": "batchnorm",
    "write_checkpoint": "checkpoints",
}

__all__ = [
    "AverageOptions",
    "SwaToolsError",
    "average_checkpoints",
    "create_model",
    "evaluate",
    "find_checkpoints",
    "iterate_average",
    "load_checkpoint",
    "open_checkpoint",
    "update_bn",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'swa_tools' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swa_tools.{_MODULES[name]}"), name)
