"""Every form in which images may lie on the disk gives the same images."""

import io
import re
import tarfile
from pathlib import Path

import pytest
import torch

from swa_tools.data import (
    ImageSource,
    PassOptions,
    evaluation_loader,
    open_images,
    open_split,
    subset,
    training_loader,
)
from swa_tools.data.splits import find_split
from swa_tools.errors import DataError

CPU = torch.device("cpu")


def load(images, preprocessing, *, workers=0):
    loader = evaluation_loader(
        images, preprocessing, options=PassOptions(device="cpu", batch_size=5, workers=workers)
    )
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_shards(folder, image_folder, pattern, *, n_shards=2):
    """Write WebDataset shards with the images of both splits; samples alternate between shards."""
    for split, name in (("train", "train"), ("val", "validation")):
        images = open_images(image_folder / split)
        for shard in range(n_shards):
            path = folder / pattern.format(name, shard)
            path.parent.mkdir(exist_ok=True)
            with tarfile.open(path, "w") as tar:
                for i in range(shard, len(images), n_shards):
                    data = (image_folder / split / images.paths[i]).read_bytes()
                    add(tar, f"some/{i:05d}.cls", str(images.targets[i]).encode())
                    add(tar, f"some/{i:05d}.json", b"{}")
                    add(tar, f"some/{i:05d}.jpg", data)


@pytest.mark.parametrize("place", ["data", "directory"])
def test_tar_file_has_the_images_of_the_folder(image_folder, tmp_path, preprocessing, place):
    with tarfile.open(tmp_path / "validation.tar", "w") as tar:
        tar.add(image_folder / "val", arcname="val")
    source = ImageSource(data=tmp_path)
    if place == "directory":
        source = ImageSource(val_dir=tmp_path / "validation.tar")
    images, expected = open_split("val", source), open_split("val", ImageSource(data=image_folder))
    assert images.classes == expected.classes
    pixels, targets, _ = load(images, preprocessing, workers=2)
    expected_pixels, expected_targets, _ = load(expected, preprocessing)
    assert torch.equal(targets, expected_targets)
    assert torch.equal(pixels, expected_pixels)


def test_a_tar_file_that_is_none_is_one_line(tmp_path):
    (tmp_path / "val.tar").write_bytes(b"no tar file")
    with pytest.raises(DataError, match=r"val\.tar: timm cannot open it: truncated header"):
        open_split("val", ImageSource(data=tmp_path))


@pytest.mark.parametrize("pattern", ["set-{}-{:04d}.tar", "{}/{:04d}.tar"])
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_have_the_images_of_the_folder(
    image_folder, tmp_path, preprocessing, pattern, workers
):
    write_shards(tmp_path, image_folder, pattern)
    images = open_split("val", ImageSource(data=tmp_path, dataset="wds/set"))
    assert images.classes == ("0", "1", "2")
    pixels, targets, _ = load(images, preprocessing, workers=workers)
    expected_pixels, expected_targets, _ = load(open_images(image_folder / "val"), preprocessing)
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    assert torch.equal(targets, expected_targets[order])
    assert torch.equal(pixels, expected_pixels[order])


def test_shards_are_trained_on_and_chosen_from_as_folders_are(
    image_folder, tmp_path, preprocessing
):
    write_shards(tmp_path, image_folder, "set-{}-{}.tar", n_shards=1)
    sets = [
        open_split("train", ImageSource(data=tmp_path, dataset="wds/set")),
        open_split("train", ImageSource(data=image_folder)),
    ]
    epochs = []
    for images in sets:
        chosen = subset(images, 12, seed=1)
        loader = training_loader(
            chosen,
            preprocessing,
            seed=0,
            options=PassOptions(device="cpu", batch_size=4, workers=0),
        )
        epochs.append(
            [torch.cat(parts) for parts in zip(*loader.epoch(3, start_step=1), strict=True)]
        )
    for found, expected in zip(*epochs, strict=True):
        assert torch.equal(found, expected)


def test_bad_shards_are_one_line(image_folder, tmp_path):
    with pytest.raises(DataError, match="no shards of the train images: expected train/"):
        open_split("train", ImageSource(data=tmp_path, dataset="wds/set"))
    with tarfile.open(tmp_path / "set-train-0.tar", "w") as tar:
        add(tar, "a.jpg", b"")
    with pytest.raises(DataError, match=r"set-train-0.tar: a has an image but no label"):
        open_split("train", ImageSource(data=tmp_path, dataset="wds/set"))
    with tarfile.open(tmp_path / "set-train-0.tar", "w") as tar:
        add(tar, "a.jpg", b"")
        add(tar, "a.cls", b"cat")
    with pytest.raises(DataError, match=r"a.cls: expected a class index in digits, found b'cat'"):
        open_split("train", ImageSource(data=tmp_path, dataset="wds/set"))
    (tmp_path / "set-train-0.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="set-train-0.tar: cannot read this shard"):
        open_split("train", ImageSource(data=tmp_path, dataset="wds/set"))


def test_a_bad_image_in_a_shard_is_named(image_folder, tmp_path, preprocessing):
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        add(tar, "some/a.jpg", b"no image")
        add(tar, "some/a.cls", b"0")
    images = open_split("val", ImageSource(data=tmp_path, dataset="wds/set"))
    with pytest.raises(DataError, match=r"val\.tar/some/a\.jpg#512\+8: cannot read this image"):
        load(images, preprocessing)


def test_splits_are_found_by_name_or_given(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "validation").mkdir()
    assert find_split("train", ImageSource(data=tmp_path)) == tmp_path / "train"
    assert find_split("val", ImageSource(data=tmp_path)) == tmp_path / "validation"
    assert find_split("val", ImageSource(data=tmp_path, val_dir=Path("mine"))) == Path("mine")
    (tmp_path / "val").mkdir()
    assert find_split("val", ImageSource(data=tmp_path)) == tmp_path / "val"


def test_split_that_is_not_there_is_an_error_that_says_what_is(tmp_path):
    (tmp_path / "training").mkdir()
    with pytest.raises(
        DataError, match=r"expected a folder train/ in it, found training/; --train-dir"
    ):
        open_split("train", ImageSource(data=tmp_path))
    with pytest.raises(DataError, match=r"val/ or validation/ in it"):
        open_split("val", ImageSource(data=tmp_path))
    with pytest.raises(DataError, match=r"give --data DIR with val/ in it, or --val-dir"):
        open_split("val", ImageSource())
    for given in ({}, {"data": tmp_path, "val_dir": tmp_path}):
        with pytest.raises(DataError, match="where it lies: give both, and no --val-dir"):
            open_split("val", ImageSource(dataset="torch/cifar10", **given))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/nowhere: cannot read this folder")):
        open_split("val", ImageSource(data=tmp_path / "nowhere"))
