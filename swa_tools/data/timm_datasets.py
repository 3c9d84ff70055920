"""Data sets that timm knows by name, as image sets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch.utils.data import IterableDataset

from swa_tools.data.images import ImageSet
from swa_tools.errors import DataError

TIMM_SPLITS = {"train": "train", "val": "validation"}


def open_dataset(name: str, *, split: Literal["train", "val"], root: Path) -> ImageSet:
    """Open a data set by its name in timm's `create_dataset`.

    Args:
        name: `torch/cifar10`, `torch/image_folder`, `hfds/OWNER/NAME` (needs the package
            datasets), … An empty name is a folder, or a tar file, that timm reads.
        split: Which part of the data set.
        root: The folder that holds it, or that Hugging Face downloads it to.

    Raises:
        DataError: timm cannot open it, it is a stream (`tfds/`, `hfids/`), or it does not list its
            labels.
    """
    from timm.data.dataset_factory import create_dataset  # timm takes seconds to import

    try:
        # A stream, which is refused below, is opened here, too: only its type tells it apart.
        dataset = create_dataset(name, root=str(root), split=TIMM_SPLITS[split])
    except Exception as error:  # Whatever the library behind the name raises.
        reason = " ".join(str(error).split()) or type(error).__name__
        what = f"the data set {name!r}" if name else "it"  # Without a name it is the file itself.
        raise DataError(f"{root}: timm cannot open {what}: {reason}") from error
    if isinstance(dataset, IterableDataset):
        raise DataError(
            f"{root}: the data set {name!r} is a stream; only data sets whose images can be read in"
            " any order are supported, such as torch/…, hfds/… or a folder"
        )
    targets, classes = _labels(dataset, name, root)
    return ImageSet(
        root=root,
        paths=tuple(f"{name}/{split}/{index:07d}" for index in range(len(targets))),
        targets=targets,
        classes=classes,
        outputs=tuple(range(len(classes))),
        open=_DatasetOpener(dataset),
    )


class _DatasetOpener:
    """Opens images by the paths that `open_dataset` makes: their last part is the position."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, path: str) -> Image.Image:
        index = int(path.rpartition("/")[2])
        if hasattr(self.dataset, "reader"):
            # timm's own data set would put the next image in place of a bad one.
            file, *_ = self.dataset.reader[index]
            return Image.open(file)
        image: Image.Image = self.dataset[index][0]
        return image


def _labels(dataset: Any, name: str, root: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the targets of all images and the names of the classes; decodes none."""
    source = getattr(dataset, "reader", dataset)
    targets: Iterable[Any] | None = getattr(source, "targets", None)
    if targets is None and hasattr(source, "samples"):  # timm's reader of folders
        targets = [target for _, target in source.samples]
    if targets is None and hasattr(source, "label_key"):  # timm's reader of Hugging Face's
        targets = source.dataset[source.label_key]
    if targets is None:
        raise DataError(
            f"{root}: the data set {name!r} ({type(source).__name__}) does not list its labels;"
            " store its images in one folder per class and use --data"
        )
    numbers = tuple(int(target) for target in targets)
    n_classes = max(numbers, default=-1) + 1
    names = getattr(source, "class_to_idx", None) or getattr(source, "class_name_to_idx", None)
    by_index = {index: str(key) for key, index in (names or {}).items()}
    if hasattr(source, "wnids"):  # torchvision's ImageNet calls several classes by one name
        by_index = dict(enumerate(source.wnids))
    n_classes = max(n_classes, len(by_index))
    return numbers, tuple(by_index.get(index, str(index)) for index in range(n_classes))
