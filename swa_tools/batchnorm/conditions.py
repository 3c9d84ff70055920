"""What statistics are measured on: which view of the images, in which batches."""

import dataclasses

from swa_tools.batchnorm.options import ViewOptions
from swa_tools.checkpoints import CheckpointMetadata, Preprocessing, ViewInfo
from swa_tools.data import evaluation_view, training_view
from swa_tools.data.options import BATCH_SIZE

LEAST_BATCH = 64
"""Smaller batches give poor statistics: the deeper layers see activations that were normalised by
their own batch. For the mean of two networks, top-1 fell from 65.4 % with 200 images in a batch to
57.3 % with 4 and 21.3 % with 1."""


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
    options: ViewOptions, metadata: CheckpointMetadata | None, preprocessing: Preprocessing
) -> Conditions:
    """Fill in what the options leave to the run that the weights come from.

    Args:
        options: How statistics are measured.
        metadata: The checkpoint's metadata; None for a file from another tool.
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
            " with --view evaluation, on images as they are scored"
        )
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = BATCH_SIZE if data is None else max(LEAST_BATCH, data.batch_size)
    elif batch_size < LEAST_BATCH:
        notices.append(
            f"--batch-size {batch_size} is too small for BatchNorm: deeper layers see activations"
            " that were normalised by the batch, and so few images give poor statistics; give at"
            f" least {LEAST_BATCH}, or leave it out"
        )
    seed = options.seed
    if seed is None:
        seed = 0 if data is None else data.seed
    return Conditions(view=view, batch_size=batch_size, seed=seed, notices=tuple(notices))
