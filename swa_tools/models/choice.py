"""Which model a file belongs to, where the file does not say."""

import dataclasses
from typing import Any

from swa_tools.options import COUNT, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model a file belongs to and how that model is built.

    A file written by swa-tools says so itself, and contradicting it is an error; only its image
    size can be chosen.
    """

    model: str | None = option(
        None,
        help="torchvision/NAME or timm/NAME, for files that do not name their model.",
        metavar="MODEL",
    )
    model_kwargs: dict[str, Any] = option(
        factory=dict,
        help="Argument of the model's constructor; may be repeated.",
        metavar="NAME=VALUE",
    )
    num_classes: int | None = option(
        None, help="Number of classes.", shown_default="as in the file", bounds=COUNT
    )
    image_size: int | None = option(
        None, help="Input size in pixels.", shown_default="the model's", bounds=COUNT
    )
    entry: str | None = option(
        None,
        help="Which weights to take from a pickled file that holds several (state_dict_ema …).",
        metavar="KEY",
    )
