import dataclasses

import numpy as np
import pytest
import timm.data
import torch
import torchvision
from PIL import Image

from swa_tools.checkpoints import Preprocessing, ViewInfo
from swa_tools.data.random_numbers import AUGMENT, generator
from swa_tools.data.views import EvaluationView, Normaliser, TrainingView, random_crop
from swa_tools.models import create_model

CPU = torch.device("cpu")


def evaluated(path, preprocessing, *, channels_last=False):
    """What the network sees of a file in evaluation."""
    with Image.open(path) as image:
        pixels = EvaluationView(preprocessing=preprocessing)(image, epoch=0, index=0)
    normalise = Normaliser(
        preprocessing,
        image_size=preprocessing.image_size,
        device=CPU,
        channels_last=channels_last,
    )
    return normalise(pixels[None])[0]


def training_of(size, interpolation, *, seed):
    info = ViewInfo(
        size=size, crop="random-resized", min_area=0.08, flip=0.5, interpolation=interpolation
    )
    return TrainingView(info=info, seed=seed)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "name", ["mobilenet_v2:IMAGENET1K_V1", "resnet50:IMAGENET1K_V2", "regnet_y_400mf"]
)
def test_evaluation_is_torchvisions_own_to_the_bit(odd_images, name, channels_last):
    architecture, _, tag = name.partition(":")
    weights = torchvision.models.get_model_weights(architecture)[tag or "DEFAULT"]
    transform = weights.transforms()
    preprocessing = create_model(f"torchvision/{name}").preprocessing
    for path in odd_images:
        with Image.open(path) as image:
            expected = transform(image.convert("RGB"))
        found = evaluated(path, preprocessing, channels_last=channels_last)
        assert torch.equal(found, expected), path.name


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("image_size", [None, 96])
@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv2_050",  # bicubic
        "test_resnet",  # bilinear, crop_pct 0.95, other mean and std
        "tf_efficientnet_lite0",
        "eca_nfnet_l0",
    ],
)
def test_evaluation_is_timms_own_to_the_bit(odd_images, name, image_size):
    built = create_model(f"timm/{name}", image_size=image_size)
    arguments = {} if image_size is None else {"img_size": image_size}
    config = timm.data.resolve_model_data_config(built.module, args=arguments)
    transform = timm.data.create_transform(**config, is_training=False)
    for path in odd_images:
        with Image.open(path) as image:
            expected = transform(image.convert("RGB"))
        assert torch.equal(evaluated(path, built.preprocessing), expected), path.name


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_every_crop_and_interpolation_is_timms_own(odd_images, crop_mode, interpolation):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    transform = timm.data.create_transform(
        (3, 48, 48),
        is_training=False,
        crop_pct=0.8,
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=mean,
        std=std,
    )
    preprocessing = Preprocessing(
        image_size=48,
        resize=60,
        crop=crop_mode,
        interpolation=interpolation,
        mean=mean,
        std=std,
    )
    for path in odd_images:
        with Image.open(path) as image:
            expected = transform(image.convert("RGB"))
        assert torch.equal(evaluated(path, preprocessing), expected), path.name


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalised_images_lie_in_memory_as_asked(preprocessing, channels_last):
    normalise = Normaliser(preprocessing, image_size=32, device=CPU, channels_last=channels_last)
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    before = pixels.clone()
    images = normalise(pixels)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert images.is_contiguous(memory_format=order)
    assert torch.equal(pixels, before)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    assert torch.equal(images, (pixels.permute(0, 3, 1, 2) / 255 - mean) / std)


def crops(height, width, n):
    return np.array([random_crop(height, width, generator(0, AUGMENT, index=i)) for i in range(n)])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (64, 64), (30, 300), (300, 30), (1, 1)])
def test_crops_have_the_distribution_of_torchvisions(height, width):
    torch.manual_seed(0)
    n = 2000
    transform = torchvision.transforms.RandomResizedCrop
    image = torch.empty(3, height, width)
    expected = np.array(
        [transform.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    )
    found = crops(height, width, n)
    # The largest distance between the two distribution functions of each number; for equal
    # distributions above 0.0616 with a probability of 0.001 (Kolmogorov and Smirnov). Fixed seeds.
    for column in range(4):
        values = np.concatenate([expected[:, column], found[:, column]])
        distances = [
            np.searchsorted(np.sort(sample[:, column]), values, side="right") / n
            for sample in (expected, found)
        ]
        assert np.abs(distances[0] - distances[1]).max() < 0.0616


@pytest.mark.parametrize(("height", "width"), [(375, 500), (30, 300), (300, 30), (1, 1), (2, 1)])
def test_crops_lie_within_the_image(height, width):
    top, left, crop_height, crop_width = crops(height, width, 300).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (crop_height >= 1).all()
    assert (crop_width >= 1).all()
    assert (top + crop_height <= height).all()
    assert (left + crop_width <= width).all()


def test_area_of_crops_has_a_lower_bound():
    areas = {}
    for min_area in (0.08, 0.5, 1.0):
        drawn = [
            random_crop(200, 200, generator(0, AUGMENT, index=i), min_area=min_area)
            for i in range(200)
        ]
        areas[min_area] = min(height * width / 200**2 for _, _, height, width in drawn)
    assert 0.078 < areas[0.08] < 0.2
    assert 0.49 < areas[0.5] < 0.6
    assert areas[1.0] > 0.99


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(500, 375), (90, 70)])
def test_training_view_is_pillows_crop_and_resize_within_rounding(photograph, interpolation, size):
    """Use an image that is not a JPEG, so that nothing is decoded smaller."""
    image = photograph(*size)
    view = training_of(64, interpolation, seed=3)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for index in range(20):
        random = generator(3, AUGMENT, epoch=2, index=index)
        top, left, height, width = random_crop(size[1], size[0], random)
        box = (left, top, left + width, top + height)
        expected = image.crop(box).resize((64, 64), filters[interpolation])
        if random.random() < 0.5:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found = view(image, epoch=2, index=index).numpy().astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 2


def test_jpeg_decoded_smaller_shows_the_same_crop(photograph, tmp_path):
    photograph(800, 600).save(tmp_path / "large.jpg", quality=95)
    view = training_of(32, "bilinear", seed=0)
    for index in range(20):
        with Image.open(tmp_path / "large.jpg") as image:
            found = view(image, epoch=0, index=index).numpy().astype(int)
            decoded = image.size
        with Image.open(tmp_path / "large.jpg") as image:
            image.load()  # A loaded image cannot be decoded smaller any more.
            expected = view(image, epoch=0, index=index).numpy()
        assert decoded[0] < 800
        assert np.abs(found - expected).mean() < 4


def test_view_of_training_depends_on_seed_epoch_and_image(photograph):
    image = photograph(80, 60)
    views = {
        training_of(24, "bilinear", seed=seed)(image, epoch=epoch, index=index).numpy().tobytes()
        for seed in (0, 1)
        for epoch in (0, 1)
        for index in (0, 1)
    }
    assert len(views) == 8


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_training_takes_images_of_every_kind(odd_images):
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        view = training_of(40, interpolation, seed=0)
        for path in odd_images:
            with Image.open(path) as image:
                pixels = view(image, epoch=0, index=1)
            assert pixels.shape == (40, 40, 3)
            assert pixels.dtype == torch.uint8


def test_half_of_the_views_are_flipped(photograph):
    left_half_black = np.zeros((40, 40, 3), dtype=np.uint8)
    left_half_black[:, 20:] = 255
    image = Image.fromarray(left_half_black)
    view = training_of(8, "bilinear", seed=0)
    views = [view(image, epoch=0, index=i).float().mean(dim=(0, 2)) for i in range(400)]
    brighter_left = sum(bool(columns[0] > columns[-1]) for columns in views)
    brighter_right = sum(bool(columns[0] < columns[-1]) for columns in views)
    share = brighter_left / (brighter_left + brighter_right)
    assert 0.4 < share < 0.6


def test_another_image_size_changes_the_resize_in_proportion():
    preprocessing = create_model("torchvision/resnet18:IMAGENET1K_V1", image_size=96).preprocessing
    assert (preprocessing.image_size, preprocessing.resize) == (96, 109)
    own = create_model("torchvision/resnet18:IMAGENET1K_V1").preprocessing
    assert dataclasses.replace(preprocessing, image_size=224, resize=256) == own
