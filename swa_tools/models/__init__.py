"""Models from torchvision and timm by name, and their weights in files.

The names are imported when they are first used: `swa_tools.models.choice` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swa_tools.models.building import BuiltModel
    from swa_tools.models.choice import ModelChoice
    from swa_tools.models.libraries import create_model, has_batchnorm, replace_head
    from swa_tools.models.loading import load_checkpoint
    from swa_tools.models.state_dicts import (
        from_arrays,
        load_into,
        load_state_dict,
        save_state_dict,
        to_arrays,
    )

_MODULES = {
    "BuiltModel": "models.building",
    "ModelChoice": "models.choice",
    "create_model": "models.libraries",
    "from_arrays": "models.state_dicts",
    "has_batchnorm": "models.libraries",
    "load_checkpoint": "models.loading",
    "load_into": "models.state_dicts",
    "load_state_dict": "models.state_dicts",
    "replace_head": "models.libraries",
    "save_state_dict": "models.state_dicts",
    "to_arrays": "models.state_dicts",
}

__all__ = [
    "BuiltModel",
    "ModelChoice",
    "create_model",
    "from_arrays",
    "has_batchnorm",
    "load_checkpoint",
    "load_into",
    "load_state_dict",
    "replace_head",
    "save_state_dict",
    "to_arrays",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'swa_tools.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swa_tools.{_MODULES[name]}"), name)
