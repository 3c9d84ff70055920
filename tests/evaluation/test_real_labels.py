from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import RealLabelsImagenet

from swa_tools.data import ImageSet
from swa_tools.evaluation.real_labels import N_VALIDATION, NAME, real_accuracy, real_labels


def image_set(names):
    return ImageSet(
        root=Path("val"),
        paths=tuple(f"n01440764/{name}" for name in names),
        targets=(0,) * len(names),
        classes=("n01440764",),
        outputs=(0,),
        open=lambda path: None,
    )


def test_accuracy_on_the_whole_validation_set_is_that_of_timm():
    names = [NAME.format(number) for number in range(1, N_VALIDATION + 1)]
    theirs = RealLabelsImagenet(names)
    labels = real_labels(image_set(names))
    # Right about half of the time, where there is a label at all.
    guess = [min(found) + i % 2 if found else 0 for i, found in enumerate(labels)]
    predictions = np.array(guess) % 1000
    for some in torch.from_numpy(predictions).split(5000):
        theirs.add_result(torch.nn.functional.one_hot(some, 1000))
    ours = real_accuracy(predictions, np.arange(N_VALIDATION), labels)
    assert 40 < ours < 80
    assert ours == pytest.approx(theirs.get_accuracy(1))


def test_a_part_of_the_images_finds_its_own_labels():
    names = [NAME.format(number) for number in (1, 2, 3, 4, 5)]
    labels = real_labels(image_set(names))
    predictions = np.array([min(labels[4]), min(labels[1]) if labels[1] else 0])
    assert real_accuracy(predictions, np.array([4, 1]), labels) == 100
    assert real_accuracy(predictions, np.array([4, 1]), [frozenset()] * 5) is None


def test_other_names_have_no_real_labels():
    assert real_labels(image_set([NAME.format(1), "n01440764_10042.JPEG"])) is None
