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
def count(modules, batches):
    """Correct top-1 answers of each module in batches of (images, targets)."""
    n_correct = [0] * len(modules)
    for module in modules:
        module.eval().to(memory_format=torch.channels_last)  # A third of the time on a CPU.
    for images, targets, *_ in batches:
        for number, module in enumerate(modules):
            n_correct[number] += int((module(images).argmax(dim=1) == targets).sum())
    return n_correct


def ours(paths, model, folder, *, image_size=None, every=1):
    """Count through `load_checkpoint`, `map_to_outputs` and `evaluation_loader`."""
    choice = ModelChoice(model=model, image_size=image_size)
    first, *others = (load_checkpoint(path, choice)[0] for path in paths)
    assert all(one.preprocessing == first.preprocessing for one in others)
    images = map_to_outputs(open_images(folder), first.info)
    images = take(images, range(0, len(images), every))
    loader = evaluation_loader(
        images, first.preprocessing, options=PassOptions(device="cpu", batch_size=50)
    )
    return count([one.module for one in (first, *others)], loader)


def test_top1_of_timm_weights_is_that_of_a_plain_loop(real_data):
    names = [f"mobilenetv2_050-imagenette-e{epochs}.safetensors" for epochs in (15, 20)]
    paths = [real_data / "weights" / name for name in names]
    folder = real_data / "imagenette" / "val"

    modules = [timm.create_model("mobilenetv2_050", num_classes=10) for _ in paths]
    for module, path in zip(modules, paths, strict=True):
        module.load_state_dict(safetensors.torch.load_file(path))
    config = timm.data.resolve_model_data_config(modules[0], args={"img_size": 96})
    transform = timm.data.create_transform(**config, is_training=False)
    data = torchvision.datasets.ImageFolder(folder, transform)
    expected = count(modules, plain_batches(data))

    assert all(500 < n_correct < 1000 for n_correct in expected)
    assert ours(paths, "timm/mobilenetv2_050", folder, image_size=96) == expected


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
    expected = count([module], plain_batches(part))

    assert 40 < expected[0] < 100
    name = "torchvision/mobilenet_v2:IMAGENET1K_V1"
    assert ours([path], name, folder, every=every) == expected
