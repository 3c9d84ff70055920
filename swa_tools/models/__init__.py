"""Models from torchvision and timm by name, and their weights in files.

The names are imported when they are first used: `swa_tools.models.choice` needs no torch.
"""

from typing import TYPE_CHECKING

from swa_tools.lazy_names import lazy_names

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

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "building": ("BuiltModel",),
        "choice": ("ModelChoice",),
        "libraries": ("create_model", "has_batchnorm", "replace_head"),
        "loading": ("load_checkpoint",),
        "state_dicts": (
            "from_arrays",
            "load_into",
            "load_state_dict",
            "save_state_dict",
            "to_arrays",
        ),
    },
)
