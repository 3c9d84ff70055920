"""How points of weight space are scored, as a person says it."""

import dataclasses

from swa_tools.batchnorm.options import ViewOptions
from swa_tools.models.choice import ModelChoice
from swa_tools.options import COUNT, NOT_NEGATIVE, option

DEFAULT_WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceOptions(ViewOptions, ModelChoice):
    """How points are scored, and which model they belong to where files do not say it.

    A number of images above the size of the set means the whole set.
    """

    train_samples: int = option(
        5000, help="Training images for the loss: random, class-balanced.", bounds=COUNT
    )
    val_samples: int = option(
        5000, help="Validation images for the error: random, class-balanced.", bounds=COUNT
    )
    bn_samples: int = option(
        2048,
        help="Training images to recompute BatchNorm on at every point; 0 leaves it as it is, and"
        " the picture of a network with BatchNorm is wrong.",
        bounds=NOT_NEGATIVE,
    )
    weight_decay: float | None = option(
        None,
        help="Of the loss's L2 term.",
        shown_default=f"the run's own, else {DEFAULT_WEIGHT_DECAY:g}",
        bounds=NOT_NEGATIVE,
    )
    no_decay_norm_bias: bool = option(
        False,
        help="Biases and norm layers were not decayed, and do not count for the L2 term.",
        shown_default="as the run",
    )
    cache_images: bool | None = option(
        None,
        help="Hold the decoded images in memory.",
        shown_default="if half of what is free is enough",
    )

    @property
    def l2(self) -> float:
        """λ of the L2 term."""
        return DEFAULT_WEIGHT_DECAY if self.weight_decay is None else self.weight_decay
