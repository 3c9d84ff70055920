"""ImageNet ReaL: all labels that fit an image (Beyer et al. 2020, arXiv:2006.07159).

For many validation images ImageNet's own label is only one of several that would be right. ReaL
lists them all, for each of the 50,000 validation images by name; an image without any does not
count.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from swa_tools.data import ImageSet

NAME = "ILSVRC2012_val_{:08d}.JPEG"
N_VALIDATION = 50_000


def real_labels(images: ImageSet) -> list[frozenset[int]] | None:
    """Return the ReaL labels of each image of a set.

    Returns:
        One set of outputs per image; None if any image is not named as in ImageNet's own
        validation set.
    """
    pattern = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
    names = [PurePath(path).name for path in images.paths]
    if not all(pattern.fullmatch(name) for name in names):
        return None
    from timm.data.real_labels import RealLabelsImagenet  # timm takes seconds to import

    # timm's class wants the names of the whole set, and ships its labels.
    whole = [NAME.format(number) for number in range(1, N_VALIDATION + 1)]
    by_name = RealLabelsImagenet(whole).real_labels  # type: ignore[no-untyped-call]  # timm's
    return [frozenset(by_name.get(name, ())) for name in names]


def real_accuracy(
    predictions: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    labels: Sequence[frozenset[int]],
) -> float | None:
    """Return the share of images, in percent, whose prediction is one of their ReaL labels.

    Args:
        predictions: The output with the largest logit for each image, (N,).
        indices: Positions of these images in the set, (N,).
        labels: ReaL labels of the whole set.

    Returns:
        The share; None if no image has a label.
    """
    pairs = zip(predictions.tolist(), indices.tolist(), strict=True)
    hits = [prediction in labels[index] for prediction, index in pairs if labels[index]]
    return 100 * sum(hits) / len(hits) if hits else None
