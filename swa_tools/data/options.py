"""Which images, and how they go through a network: options that all commands share."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, Self

from swa_tools.options import COUNT, NOT_NEGATIVE, option

Amp = Literal["auto", "bf16", "fp16", "off"]
Split = Literal["train", "val"]

BATCH_SIZE = 256
"""Images in a batch for scoring, and for weights that do not say what they were trained with."""


_SOURCE: dict[str, Any] = {"section": "Images", "affects": "numbers", "may_change": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where images lie. A run may be resumed after they have been moved."""

    data: Path | None = option(
        None,
        help="Folder with train/ and val/ (or validation/), each with one folder per class; or with"
        " train.tar and val.tar.",
        metavar="DIR",
        **_SOURCE,
    )
    train_dir: Path | None = option(
        None,
        help="Folder or tar file of the training images, instead of --data.",
        metavar="DIR",
        **_SOURCE,
    )
    val_dir: Path | None = option(
        None,
        help="Folder or tar file of the validation images, instead of --data.",
        metavar="DIR",
        **_SOURCE,
    )
    dataset: str | None = option(
        None,
        help="Kind of data set in --data: wds/ for WebDataset shards, or a name that timm's"
        " create_dataset knows (torch/cifar10, hfds/…).",
        metavar="NAME",
        **_SOURCE,
    )

    def directory(self, split: Split) -> Path | None:
        """Return the split's own folder or tar file, which takes precedence over `data`."""
        return self.train_dir if split == "train" else self.val_dir


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassOptions:
    """How images go through a network: in which batches, read by whom, computed where.

    Leaving out bad images affects no numbers: without this option one bad image ends the command,
    so that there are no numbers to compare with.
    """

    batch_size: int | None = option(
        None,
        help="Images in a batch; each batch goes to one process.",
        shown_default="for BatchNorm the run's, at least 64; else 256",
        bounds=COUNT,
        affects="numbers",
    )
    device: str = option(
        "auto",
        help="Where to compute: auto, cpu, cuda, cuda:1, mps.",
        section="Speed",
        affects="bits",
    )
    workers: int | None = option(
        None,
        help="Processes that decode images.",
        section="Images",
        shown_default="depends on the number of cores",
        bounds=NOT_NEGATIVE,
    )
    amp: Amp = option(
        "auto",
        help="Mixed precision; auto means bf16 on GPUs that support it, else off.",
        section="Speed",
        affects="bits",
    )
    channels_last: bool = option(
        True,
        help="Keep images and weights channels-last in memory.",
        section="Speed",
        affects="bits",
    )
    skip_bad_images: bool = option(
        False,
        help="Leave out images that cannot be read, and count them, instead of stopping.",
        section="Images",
    )

    @property
    def images_per_batch(self) -> int:
        """Images in a batch: as the options say, else the default."""
        return BATCH_SIZE if self.batch_size is None else self.batch_size

    @classmethod
    def as_in(cls, other: "PassOptions", **changes: Any) -> Self:
        """Return options that read images and compute as `other` does, but with their own batches.

        Args:
            other: The options to copy from; all fields but the batch size.
            changes: Further fields of this class.
        """
        names = {field.name for field in dataclasses.fields(PassOptions)} - {"batch_size"}
        return cls(**{name: getattr(other, name) for name in names}, **changes)
