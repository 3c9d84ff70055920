"""Which model a file belongs to, where it does not say so itself."""

import dataclasses
from typing import Any

from swa_tools.options import COUNT, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model a file belongs to and how it is built.

    A file of ours says it itself, and it is an error to contradict it; of such a file only the
    image size can be chosen.
    """

    model: str | None = option(
        None,
        help="torchvision/NAME or timm/NAME, for files that do not say it themselves.",
        metavar="MODEL",
    )
    model_kwargs: dict[str, Any] = option(
        factory=dict,
        help="Argument of the model's constructor; may be repeated.",
        metavar="NAME=VALUE",
    )
    num_classes: int | None = option(
        None, help="Outputs of the classifier.", shown_default="as in the file", bounds=COUNT
    )
    image_size: int | None = option(
        None, help="Input size in pixels.", shown_default="the model's", bounds=COUNT
    )
    entry: str | None = option(
        None,
        help="Which weights to take from a pickled file that holds several (state_dict_ema …).",
        metavar="KEY",
    )

    @property
    def without_entry(self) -> "ModelChoice":
        """The same for a file that was written here from such a one."""
        return ModelChoice(
            model=self.model,
            model_kwargs=self.model_kwargs,
            num_classes=self.num_classes,
            image_size=self.image_size,
        )
