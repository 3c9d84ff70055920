"""What statistics are measured on: which view of the images, in which batches."""

import dataclasses
from typing import Literal

import torch

from swa_tools.batchnorm.estimators import Estimator
from swa_tools.checkpoints import CheckpointMetadata, Preprocessing, ViewInfo
from swa_tools.data import evaluation_view, training_view

BATCH_SIZE = 256
"""Images in a batch, for weights that do not say what they were trained with."""

LEAST_BATCH = 64
"""Smaller batches have no statistics to speak of: the deeper layers see activations that were
normalised by their own batch. On the mean of two networks top-1 fell from 65.4 with 200 images in a
batch to 57.3 with 4 and 21.3 with 1."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BnOptions:
    """How statistics are measured on a set of images.

    Attributes:
        estimator: `population`, `batch-mean` or `sample-weighted`.
        n_samples: Images of a random, class-balanced subset; None for all images.
        view: `training` for the view that the weights were trained on, as their metadata has it;
            `evaluation` for images as they are scored.
        train_mode: Whether the whole model is in train mode, dropout and all.
        batch_size: Images in a batch, which is on one rank; None for what BatchNorm saw in
            training, but at least `LEAST_BATCH`.
        seed: Seed of the subset, the order and the augmentation; None for the run's own.
        workers: Processes that decode images; None to choose by the machine.
        skip_bad_images: Whether unreadable images are left out instead of being an error.
        amp: dtype of mixed precision; None for full precision.
        channels_last: Whether images are laid out channels last, for models that are.
    """

    estimator: Estimator = "population"
    n_samples: int | None = None
    view: Literal["training", "evaluation"] = "training"
    train_mode: bool = False
    batch_size: int | None = None
    seed: int | None = None
    workers: int | None = None
    skip_bad_images: bool = False
    amp: torch.dtype | None = None
    channels_last: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What statistics are measured on, once the weights are known.

    Attributes:
        view: How an image is prepared.
        batch_size: Images in a batch.
        seed: Seed of the subset, the order and the augmentation.
        notices: What a user should know about them, one line each.
    """

    view: ViewInfo
    batch_size: int
    seed: int
    notices: tuple[str, ...] = ()


def conditions_of(
    options: BnOptions, metadata: CheckpointMetadata | None, preprocessing: Preprocessing
) -> Conditions:
    """Fill in what the options leave to the run that the weights come from.

    Args:
        options: How statistics are measured.
        metadata: What the checkpoint says of itself; None for somebody else's file.
        preprocessing: The model's.
    """
    recorded = metadata.view if metadata is not None else None
    data = metadata.data if metadata is not None else None
    notices = []
    if options.view == "evaluation":
        view = evaluation_view(preprocessing)
    elif recorded is not None:
        view = recorded
    else:
        view = training_view(preprocessing)
        notices.append(
            "the weights do not say how their training images were prepared: BatchNorm is measured"
            f" on random crops of at least {view.min_area:.0%} of the image, half of them flipped;"
            " --view evaluation measures it on images as they are scored"
        )
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = BATCH_SIZE if data is None else max(LEAST_BATCH, data.batch_size)
    elif batch_size < LEAST_BATCH:
        notices.append(
            f"--batch-size {batch_size} is too small for BatchNorm: deeper layers see activations"
            " that were normalised by the batch, and few images have no statistics; give at least"
            f" {LEAST_BATCH}, or leave it out"
        )
    seed = options.seed
    if seed is None:
        seed = 0 if data is None else data.seed
    return Conditions(view=view, batch_size=batch_size, seed=seed, notices=tuple(notices))
