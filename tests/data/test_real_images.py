"""The loaders and weights on real photographs, against plain loops of the libraries' own parts."""

import pytest
import safetensors.torch
import timm
import timm.data
import torch
import torchvision

from swa_tools.data import PassOptions, evaluation_loader, map_to_outputs, open_images
from swa_tools.data.images import take
from swa_tools.models import ModelChoice, load_checkpoint

pytestmark = pytest.mark.real_data

CPU = torch.device("cpu")


def plain_batches(data):
    """Batches of torch's own loader, in the memory format of ours."""
    for images, targets in torch.utils.data.DataLoader(data, batch_size=50):
        yield images.contiguous(memory_format=torch.channels_last), targets


@torch.inference_mode()
def count(module, batches):
    """Correct top-1 answers in batches of (images, targets)."""
    module.eval().to(memory_format=torch.channels_last)  # A third of the time on a CPU.
    return sum(
        int((module(images).argmax(dim=1) == targets).sum()) for images, targets, *_ in batches
    )


def ours(path, model, folder, *, image_size=None, every=1):
    """Count through `load_checkpoint`, `map_to_outputs` and `evaluation_loader`."""
    built, _ = load_checkpoint(path, ModelChoice(model=model, image_size=image_size))
    images = map_to_outputs(open_images(folder), built.info)
    images = take(images, range(0, len(images), every))
    loader = evaluation_loader(
        images, built.preprocessing, options=PassOptions(device="cpu", batch_size=50)
    )
    return count(built.module, loader)


@pytest.mark.parametrize("epochs", [15, 20])
def test_top1_of_timm_weights_is_that_of_a_plain_loop(real_data, epochs):
    path = real_data / f"weights/mobilenetv2_050-imagenette-e{epochs}.safetensors"
    folder = real_data / "imagenette" / "val"

    module = timm.create_model("mobilenetv2_050", num_classes=10)
    module.load_state_dict(safetensors.torch.load_file(path))
    config = timm.data.resolve_model_data_config(module, args={"img_size": 96})
    transform = timm.data.create_transform(**config, is_training=False)
    data = torchvision.datasets.ImageFolder(folder, transform)
    expected = count(module, plain_batches(data))

    assert 500 < expected < 1000
    assert ours(path, "timm/mobilenetv2_050", folder, image_size=96) == expected


def test_top1_of_torchvision_weights_over_1000_classes_is_that_of_a_plain_loop(real_data):
    path = real_data / "weights/mobilenet_v2-imagenet1k.pth"
    folder = real_data / "imagenette" / "val"
    every = 10  # Of the images: a forward pass at full size takes its time.

    weights = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    module = torchvision.models.mobilenet_v2()
    module.load_state_dict(torch.load(path, weights_only=True))
    outputs = {"n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491}
    outputs |= {"n03028079": 497, "n03394916": 566, "n03417042": 569, "n03425413": 571}
    outputs |= {"n03445777": 574, "n03888257": 701}
    data = torchvision.datasets.ImageFolder(folder, weights.transforms())
    data.target_transform = lambda target: outputs[data.classes[target]]
    part = torch.utils.data.Subset(data, range(0, len(data), every))
    expected = count(module, plain_batches(part))

    assert 40 < expected < 100
    name = "torchvision/mobilenet_v2:IMAGENET1K_V1"
    assert ours(path, name, folder, every=every) == expected
