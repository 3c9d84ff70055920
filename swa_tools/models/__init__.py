"""Models of torchvision and timm by name, and their weights in files."""

from swa_tools.models.building import BuiltModel
from swa_tools.models.libraries import create_model, has_batchnorm, replace_head
from swa_tools.models.loading import load_checkpoint
from swa_tools.models.state_dicts import (
    from_arrays,
    load_into,
    load_state_dict,
    save_state_dict,
    to_arrays,
)

__all__ = [
    "BuiltModel",
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
