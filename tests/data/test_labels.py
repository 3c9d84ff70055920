from pathlib import Path

import pytest
import torchvision

from swa_tools.checkpoints import ModelInfo
from swa_tools.data import map_to_outputs
from swa_tools.data.images import ImageSet
from swa_tools.data.labels import imagenet_synsets
from swa_tools.errors import DataError

IMAGENET = ModelInfo(name="torchvision/resnet50", num_classes=1000, head="imagenet-1k")


def set_of(*classes):
    """Two images of each class."""
    return ImageSet(
        root=Path("val"),
        paths=tuple(f"{name}/{i}.jpg" for name in classes for i in range(2)),
        targets=tuple(i for i in range(len(classes)) for _ in range(2)),
        classes=classes,
        outputs=tuple(range(len(classes))),
        open=open,
    )


def own(num_classes, classes=None):
    return ModelInfo(name="timm/x", num_classes=num_classes, classes=classes)


def test_folders_are_matched_by_the_names_that_the_model_knows():
    images = map_to_outputs(set_of("ant", "cat"), own(3, ("cat", "dog", "ant")))
    assert images.outputs == (2, 0)
    assert images.targets == (2, 2, 0, 0)
    assert images.classes == ("ant", "cat")


def test_mapping_twice_is_mapping_once():
    info = own(3, ("cat", "dog", "ant"))
    once = map_to_outputs(set_of("ant", "cat"), info)
    assert map_to_outputs(once, info) == once


def test_wordnet_ids_are_mapped_to_imagenets_outputs():
    images = map_to_outputs(set_of("n01440764", "n02102040", "n03888257"), IMAGENET)
    assert images.outputs == (0, 217, 701)


def test_wordnet_ids_are_in_the_order_of_torchvisions_categories():
    synsets = imagenet_synsets()
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    names = {"n01440764": "tench", "n02102040": "English springer", "n03028079": "church"}
    assert len(synsets) == 1000
    assert list(synsets) == sorted(synsets)
    for synset, name in names.items():
        assert weights.meta["categories"][synsets[synset]] == name


@pytest.mark.parametrize("info", [IMAGENET, own(1000)])
def test_class_indices_are_numbers_not_sorted_names(info):
    images = map_to_outputs(set_of("0", "1", "10", "2"), info)
    assert images.outputs == (0, 1, 10, 2)


def test_as_many_folders_as_unnamed_outputs_are_in_sorted_order():
    assert map_to_outputs(set_of("a", "b"), own(2)).outputs == (0, 1)


@pytest.mark.parametrize(
    ("classes", "info", "message"),
    [
        (("ant", "cow"), own(2, ("ant", "bee")), "1 of 2 class folders .* the first is 'cow'"),
        (("n01440764", "n99999999"), IMAGENET, "the first is 'n99999999'"),
        (("cat", "dog"), IMAGENET, "not among ImageNet-1k's WordNet ids or class indices"),
        (("0", "1000"), IMAGENET, "the first is '1000'"),
        (("1", "01"), IMAGENET, "the first is '1'"),
        (("a", "b"), own(3), "has 2 class folders, but the model has 3 outputs"),
        (("²", "a"), own(3), "has 2 class folders"),
    ],
)
def test_folders_that_do_not_fit_are_an_error_that_says_what_to_do(classes, info, message):
    with pytest.raises(DataError, match=message) as error:
        map_to_outputs(set_of(*classes), info)
    assert "--new-head" in str(error.value)
    assert "\n" not in str(error.value)
