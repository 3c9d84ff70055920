"""Images: sets of them, their labels, and loaders that put batches on the device.

The names are imported when they are first used: `swa_tools.data.options` needs no torch.
"""

from typing import TYPE_CHECKING

from swa_tools.lazy_names import lazy_names

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

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "images": ("ImageSet", "hold_out", "open_images", "subset"),
        "labels": ("map_to_outputs",),
        "loaders": (
            "Loader",
            "TrainingLoader",
            "evaluation_loader",
            "statistics_loader",
            "training_loader",
        ),
        "options": ("ImageSource", "PassOptions"),
        "pipeline": ("Batch",),
        "splits": ("has_split", "open_split"),
        "views": ("evaluation_view", "training_view"),
    },
)
