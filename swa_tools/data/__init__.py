"""Images: sets of them, their labels, and loaders that put batches on the device.

The names are imported when they are first used: `swa_tools.data.options` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swa_tools.data.images import ImageSet, hold_out, open_images, subset
    from swa_tools.data.labels import map_to_outputs
    from swa_tools.data.loaders import (
        Loader,
        TrainingLoader,
        evaluation_loader,
        statistics_loader,
        training_loader,
    )
    from swa_tools.data.options import ImageSource, PassOptions
    from swa_tools.data.pipeline import Batch
    from swa_tools.data.splits import has_split, open_split
    from swa_tools.data.views import evaluation_view, training_view

_MODULES = {
    "Batch": "pipeline",
    "ImageSet": "images",
    "ImageSource": "options",
    "Loader": "loaders",
    "PassOptions": "options",
    "TrainingLoader": "loaders",
    "evaluation_loader": "loaders",
    "evaluation_view": "views",
    "has_split": "splits",
    "hold_out": "images",
    "map_to_outputs": "labels",
    "open_images": "images",
    "open_split": "splits",
    "statistics_loader": "loaders",
    "subset": "images",
    "training_loader": "loaders",
    "training_view": "views",
}

__all__ = [
    "Batch",
    "ImageSet",
    "ImageSource",
    "Loader",
    "PassOptions",
    "TrainingLoader",
    "evaluation_loader",
    "evaluation_view",
    "has_split",
    "hold_out",
    "map_to_outputs",
    "open_images",
    "open_split",
    "statistics_loader",
    "subset",
    "training_loader",
    "training_view",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'swa_tools.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swa_tools.data.{_MODULES[name]}"), name)
