"""Which output of the model stands for which class folder."""

import dataclasses
from collections.abc import Mapping

from swa_tools.checkpoints import ModelInfo
from swa_tools.data.images import ImageSet
from swa_tools.errors import DataError

NEW_HEAD = "fine-tune with --new-head for a classifier over these folders"


def map_to_outputs(images: ImageSet, info: ModelInfo) -> ImageSet:
    """Return the images with the model's outputs as targets.

    The first case that holds decides:

    1. The model knows its classes by name: folders are matched by name; there may be fewer folders
       than classes.
    2. It has ImageNet's 1000 classes, and the folders are all WordNet ids among them, or all class
       indices (as in ImageNet-V2).
    3. Its outputs have no names: folders that are all class indices name the outputs; otherwise
       there must be as many folders as outputs, and the sorted folders are the outputs in order, as
       in torchvision's ImageFolder.

    Raises:
        DataError: No case holds.
    """
    if info.classes is not None:
        known = {name: output for output, name in enumerate(info.classes)}
        return _by_name(images, known, f"the {len(known)} classes of this model")
    indices = _class_indices(images, info.num_classes)
    if indices is not None:
        return with_outputs(images, indices)
    if info.head == "imagenet-1k":
        return _by_name(images, imagenet_synsets(), "ImageNet-1k's WordNet ids or class indices")
    if len(images.classes) == info.num_classes:
        return with_outputs(images, tuple(range(info.num_classes)))
    raise DataError(
        f"{images.root}: has {len(images.classes)} class folders, but the model has"
        f" {info.num_classes} outputs and does not say which classes they are; {NEW_HEAD}"
    )


def with_outputs(images: ImageSet, outputs: tuple[int, ...]) -> ImageSet:
    """Return the images with `outputs[i]` as the target of the i-th class."""
    by_old = dict(zip(images.outputs, outputs, strict=True))
    targets = tuple(by_old[target] for target in images.targets)
    return dataclasses.replace(images, targets=targets, outputs=outputs)


def imagenet_synsets() -> dict[str, int]:
    """Return the output of each WordNet id of ImageNet-1k, from the table that timm ships."""
    from timm.data.imagenet_info import ImageNetInfo  # timm takes seconds to import

    synsets = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return {name: index for index, name in enumerate(synsets)}


def _by_name(images: ImageSet, known: Mapping[str, int], what: str) -> ImageSet:
    unknown = [name for name in images.classes if name not in known]
    if unknown and all(name.isdecimal() for name in images.classes):
        unknown.sort(key=int, reverse=True)  # The largest index is the one that is out of range.
    if unknown:
        raise DataError(
            f"{images.root}: {len(unknown)} of {len(images.classes)} class folders are not among"
            f" {what}; the first is {unknown[0]!r}; {NEW_HEAD}"
        )
    return with_outputs(images, tuple(known[name] for name in images.classes))


def _class_indices(images: ImageSet, num_classes: int) -> tuple[int, ...] | None:
    """Return the folder names as numbers if each is a different output of the model."""
    if not all(name.isdecimal() and name.isascii() for name in images.classes):
        return None
    indices = tuple(int(name) for name in images.classes)
    is_valid = len(set(indices)) == len(indices) and max(indices) < num_classes
    return indices if is_valid else None
