"""How BatchNorm statistics are measured, as a person says it."""

import dataclasses
from typing import Literal

from swa_tools.data.options import PassOptions
from swa_tools.options import COUNT, NOT_NEGATIVE, option

Estimator = Literal["population", "batch-mean", "sample-weighted"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewOptions(PassOptions):
    """What statistics are measured on; None for what the weights were trained with.

    A batch has at least `conditions.LEAST_BATCH` images unless its size is given. The seed decides
    the subset, the order and the augmentation.
    """

    view: Literal["training", "evaluation"] = option(
        "training",
        help="Recompute on images prepared as in the run's training, or as for evaluation.",
    )
    seed: int | None = option(
        None, help="Random seed.", shown_default="the run's own, else 0", bounds=NOT_NEGATIVE
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BnOptions(ViewOptions):
    """How statistics are measured on a set of images."""

    estimator: Estimator = option(
        "population",
        help="How to estimate the statistics. population: mean and variance of all activations;"
        " batch-mean: like torch's update_bn; sample-weighted: like the authors' bn_update.",
    )
    n_samples: int | None = option(
        None,
        help="Recompute on a random, class-balanced subset of N images.",
        flag="--samples",
        metavar="N",
        shown_default="all",
        bounds=COUNT,
    )
    train_mode: bool = option(
        False,
        help="Recompute with the whole model in train mode, dropout included, as the authors do.",
    )
