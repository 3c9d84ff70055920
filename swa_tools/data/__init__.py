"""Images: sets of them, their labels, and loaders that put batches on the device."""

from swa_tools.data.images import ImageSet, hold_out, open_images, subset
from swa_tools.data.labels import map_to_outputs
from swa_tools.data.loaders import (
    Loader,
    TrainingLoader,
    evaluation_loader,
    statistics_loader,
    training_loader,
)
from swa_tools.data.pipeline import Batch
from swa_tools.data.splits import has_split, open_split
from swa_tools.data.views import evaluation_view, training_view

__all__ = [
    "Batch",
    "ImageSet",
    "Loader",
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
