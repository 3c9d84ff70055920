"""Which points of weight space are scored, and how, as a person says it."""

import dataclasses

from swa_tools.batchnorm.options import ViewOptions
from swa_tools.models.choice import ModelChoice
from swa_tools.options import COUNT, NOT_NEGATIVE, POSITIVE, Bounds, option

DEFAULT_WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceOptions(ViewOptions, ModelChoice):
    """How points are scored, and which model they belong to where the files do not say.

    A number of images larger than the set means the whole set.
    """

    train_samples: int = option(
        5000,
        help="Number of training images for the loss: random, class-balanced.",
        bounds=COUNT,
    )
    val_samples: int = option(
        5000,
        help="Number of validation images for the error: random, class-balanced.",
        bounds=COUNT,
    )
    bn_samples: int = option(
        2048,
        help="Number of training images to recompute BatchNorm on at every point; 0 recomputes"
        " nothing, and makes the picture wrong if the network has BatchNorm.",
        bounds=NOT_NEGATIVE,
    )
    weight_decay: float | None = option(
        None,
        help="Weight decay λ in the loss's L2 term.",
        shown_default=f"the run's own, else {DEFAULT_WEIGHT_DECAY:g}",
        bounds=NOT_NEGATIVE,
    )
    no_decay_norm_bias: bool = option(
        False,
        help="Leave biases and norm layers out of the L2 term, as they were not decayed.",
        shown_default="as in the run",
    )
    cache_images: bool | None = option(
        None,
        help="Keep the decoded images in memory.",
        shown_default="if they fit into half of the free memory",
    )

    @property
    def l2(self) -> float:
        """The L2 term's λ."""
        return DEFAULT_WEIGHT_DECAY if self.weight_decay is None else self.weight_decay


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlaneOptions:
    """Which points of a plane are scored."""

    n_points: int = option(
        15, help="Points along each side of the grid.", flag="--points", bounds=Bounds(min=2)
    )
    margin: float = option(
        0.25, help="Room around the checkpoints, as a share of their extent.", bounds=NOT_NEGATIVE
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Which points of rays are scored: the directions, drawn from a seed, serve all checkpoints."""

    n_rays: int = option(10, help="Number of directions.", flag="--rays", bounds=COUNT)
    n_points: int = option(
        12, help="Points on each ray, not counting the checkpoint.", flag="--points", bounds=COUNT
    )
    distance: float | None = option(
        None,
        help="Length of the rays.",
        shown_default="half the norm of the first checkpoint",
        bounds=POSITIVE,
    )
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """Which points of a line are scored."""

    n_points: int = option(
        10, help="Steps from one checkpoint to the other.", flag="--points", bounds=COUNT
    )
    beyond: float = option(
        1.0,
        help="How far to continue beyond each checkpoint, as a multiple of the distance"
        " between them.",
        bounds=NOT_NEGATIVE,
    )
