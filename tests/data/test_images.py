import os
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.data import open_images, subset
from swa_tools.data.images import ImageSet
from swa_tools.errors import DataError


def make_set(counts):
    paths, targets = [], []
    for target, n in enumerate(counts):
        paths += [f"{target}/{i}.jpg" for i in range(n)]
        targets += [target] * n
    names = tuple(str(i) for i in range(len(counts)))
    return ImageSet(
        root=Path("set"),
        paths=tuple(paths),
        targets=tuple(targets),
        classes=names,
        outputs=tuple(range(len(counts))),
        open=open,
    )


def test_images_are_those_of_torchvisions_image_folder_in_its_order(image_folder):
    images = open_images(image_folder / "train")
    reference = torchvision.datasets.ImageFolder(image_folder / "train")
    found = [str(images.root / path) for path in images.paths]
    assert list(zip(found, images.targets, strict=True)) == reference.samples
    assert list(images.classes) == reference.classes
    assert images.outputs == (0, 1, 2)


def test_nested_folders_belong_to_their_class_and_hidden_files_to_none(tmp_path):
    for name in (
        "a/deep/er/1.jpg",
        "a/2.JPEG",
        "b/3.png",
        "b/._3.png",
        ".cache/4.png",
        "b/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images = open_images(tmp_path)
    assert images.paths == ("a/2.JPEG", "a/deep/er/1.jpg", "b/3.png")
    assert images.targets == (0, 0, 1)


def test_links_to_class_folders_are_followed(tmp_path, image_folder):
    (tmp_path / "red").symlink_to(image_folder / "val" / "red")
    assert len(open_images(tmp_path)) == 4


def test_image_set_goes_to_another_process(image_folder):
    images = pickle.loads(pickle.dumps(open_images(image_folder / "val")))
    with images.open(images.paths[0]) as image:
        assert image.format == "JPEG"


def test_digest_depends_on_names_and_order_alone(image_folder, tmp_path):
    images = open_images(image_folder / "val")
    (tmp_path / "elsewhere").symlink_to(image_folder / "val")
    assert images.digest() == open_images(tmp_path / "elsewhere").digest()
    assert images.digest().startswith("xxh3-128:")
    assert images.digest() != open_images(image_folder / "train").digest()
    assert images.digest() != subset(images, 5, seed=0).digest()


def test_file_names_that_are_no_unicode_have_a_digest(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"class")
    os.mkdir(folder)
    try:
        open(os.path.join(folder, b"\xff.jpg"), "wb").close()
    except OSError:
        pytest.skip("this file system takes Unicode names alone")
    assert open_images(tmp_path).digest()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "expected one folder of images per class"),
        (["a"], r"no image in the class folder 'a' \(looked for"),
        (["a", "b", "c", "d", "e"], "'a', 'b', 'c' and 2 more"),
    ],
)
def test_folder_without_images_is_an_error_that_names_it(tmp_path, folders, message):
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=message) as error:
        open_images(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nowhere: cannot read this folder: No such file"):
        open_images(tmp_path / "nowhere")


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    n_samples=st.integers(1, 80),
    seed=st.integers(0, 2**40),
)
def test_subset_is_balanced_ordered_and_without_repeats(counts, n_samples, seed):
    images = make_set(counts)
    chosen = subset(images, n_samples, seed=seed)
    assert len(chosen) == min(n_samples, len(images))
    positions = [images.paths.index(path) for path in chosen.paths]
    assert positions == sorted(set(positions))
    assert [images.targets[p] for p in positions] == list(chosen.targets)
    found = Counter(chosen.targets)
    for target, n in enumerate(counts):
        # A class has as many as any other, but for one, unless it has no more.
        assert found[target] >= min(n, max(found.values()) - 1)


def test_subset_depends_on_its_seed():
    images = make_set([50, 50])
    assert subset(images, 10, seed=1) == subset(images, 10, seed=1)
    assert subset(images, 10, seed=1) != subset(images, 10, seed=2)


def test_subset_of_no_image_is_an_error():
    with pytest.raises(DataError, match="cannot choose 0 images"):
        subset(make_set([3]), 0, seed=0)
