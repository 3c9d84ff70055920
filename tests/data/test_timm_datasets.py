import pickle

import numpy as np
import pytest
import torch
import torchvision

from swa_tools.data import PassOptions, evaluation_loader, open_images
from swa_tools.data.timm_datasets import open_dataset
from swa_tools.errors import DataError

CPU = torch.device("cpu")


def load(images, preprocessing, *, workers=0):
    loader = evaluation_loader(
        images, preprocessing, options=PassOptions(device="cpu", batch_size=5, workers=workers)
    )
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["", "torch/image_folder"])
def test_folder_through_timm_has_the_images_of_the_folder(
    image_folder, preprocessing, name, workers
):
    images = open_dataset(name, split="val", root=image_folder)
    expected = open_images(image_folder / "val")
    assert images.classes == expected.classes
    assert images.outputs == (0, 1, 2)
    for found, wanted in zip(
        load(images, preprocessing, workers=workers), load(expected, preprocessing), strict=True
    ):
        assert torch.equal(found, wanted)


def test_data_set_of_torchvision_is_read_by_name(tmp_path, monkeypatch, preprocessing):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    content = {"data": random.integers(0, 256, (6, 3072), dtype=np.uint8), "labels": [3, 0, 9] * 2}
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(content))
    classes = [f"thing {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    dataset = torchvision.datasets.CIFAR10
    monkeypatch.setattr(dataset, "_check_integrity", lambda _: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)

    train = open_dataset("torch/cifar10", split="train", root=tmp_path)
    val = open_dataset("torch/cifar10", split="val", root=tmp_path)
    assert (len(train), len(val)) == (30, 6)
    assert val.classes == tuple(classes)
    assert val.targets == (3, 0, 9, 3, 0, 9)
    assert val.digest() != train.digest()
    pixels, _, _ = load(val, preprocessing)
    assert pixels.shape == (6, 3, 32, 32)


def test_data_set_of_hugging_face_is_read_by_name(image_folder, tmp_path, preprocessing):
    # What it needs in turn may not go with an old NumPy.
    pytest.importorskip("datasets", exc_type=ImportError)
    images = open_dataset(f"hfds/{image_folder}", split="val", root=tmp_path)
    expected = open_images(image_folder / "val")
    assert images.classes == expected.classes
    for found, wanted in zip(
        load(images, preprocessing, workers=2), load(expected, preprocessing), strict=True
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch/cifar10", "cannot open the data set 'torch/cifar10': Dataset not found"),
        ("torch/nothing", "Unknown torchvision dataset nothing"),
        ("hfds//nothing/here", "cannot open the data set 'hfds//nothing/here'"),
    ],
)
def test_data_set_that_cannot_be_opened_is_one_line(tmp_path, name, message):
    with pytest.raises(DataError, match=message) as error:
        open_dataset(name, split="val", root=tmp_path)
    assert "\n" not in str(error.value)


def test_stream_is_an_error(monkeypatch, tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", lambda *_, **__: Stream())
    with pytest.raises(DataError, match="is a stream"):
        open_dataset("tfds/x", split="train", root=tmp_path)


def test_data_set_without_a_list_of_labels_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", lambda *_, **__: object())
    with pytest.raises(DataError, match="does not list its labels"):
        open_dataset("torch/x", split="train", root=tmp_path)
