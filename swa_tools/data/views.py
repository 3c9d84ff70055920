"""How a stored image becomes the network's input.

An image has two views, both uint8 tensors `(size, size, 3)`. The evaluation view equals that of
torchvision's and timm's own transforms bit for bit; the training view is random and made for speed.
`ViewInfo` describes either. `Normaliser` turns batches of views into what the network sees, on its
device.
"""

import dataclasses
import math

import numpy as np
import torch
import torchvision.transforms.functional as F
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode

from swa_tools.checkpoints import Preprocessing, ViewInfo
from swa_tools.data.random_numbers import AUGMENT, generator

MIN_AREA = 0.08
"""Area of the smallest random crop, as a share of the image's area (Inception's augmentation)."""

ASPECT = (3 / 4, 4 / 3)
"""Width by height of a random crop."""

ATTEMPTS = 10

TRAINING_INTERPOLATIONS = ("bilinear", "bicubic")
"""The interpolations that torch has for uint8, antialiased."""

FLIP = 0.5
"""Probability of a horizontal flip in training."""


def training_view(preprocessing: Preprocessing, *, min_area: float = MIN_AREA) -> ViewInfo:
    """Describe training's random crops and flips, with evaluation's size and interpolation."""
    return ViewInfo(
        size=preprocessing.image_size,
        crop="random-resized",
        min_area=min_area,
        flip=FLIP,
        interpolation=preprocessing.interpolation,
    )


def evaluation_view(preprocessing: Preprocessing) -> ViewInfo:
    """Describe the evaluation view."""
    return ViewInfo(
        size=preprocessing.image_size, crop="evaluation", interpolation=preprocessing.interpolation
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationView:
    """Resize and crop in the middle, with the libraries' own code.

    The same operations as torchvision's `ImageClassification` preset and timm's
    `transforms_imagenet_eval`, up to the conversion to floating point.
    """

    preprocessing: Preprocessing

    @property
    def image_size(self) -> int:
        """Height and width of the view, in pixels."""
        return self.preprocessing.image_size

    def __call__(self, image: Image.Image, *, epoch: int, index: int) -> torch.Tensor:  # noqa: ARG002 -- only the training view is random
        """Return the view of an image of any mode and size."""
        wanted = self.preprocessing
        rgb = _rgb(image)
        if wanted.crop == "border":
            return torch.from_numpy(np.array(_fit_with_border(rgb, wanted)))
        size = [wanted.resize] if wanted.crop == "center" else [wanted.resize, wanted.resize]
        resized = F.resize(rgb, size, InterpolationMode(wanted.interpolation))
        return torch.from_numpy(np.array(F.center_crop(resized, [wanted.image_size])))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingView:
    """Random resized crop and horizontal flip; no change of colours.

    Drawn from (seed, epoch, index). Crops as torchvision's RandomResizedCrop does. For speed, JPEG
    files are decoded at a half, a quarter or an eighth of their size where the crop is at least 2,
    4 or 8 times as large as the view, and torch resizes the crop in 8 bits (within a level or two
    of Pillow).

    Attributes:
        info: Size, smallest crop, probability of a flip, and interpolation: `bilinear`; anything
            else means `bicubic`.
        seed: Seed of the augmentation.
    """

    info: ViewInfo
    seed: int

    @property
    def image_size(self) -> int:
        """Height and width of the view, in pixels."""
        return self.info.size

    def __call__(self, image: Image.Image, *, epoch: int, index: int) -> torch.Tensor:
        """Return the view of an image of any mode and size."""
        random = generator(self.seed, AUGMENT, epoch=epoch, index=index)
        full_width, full_height = image.size
        min_area = MIN_AREA if self.info.min_area is None else self.info.min_area
        top, left, height, width = random_crop(full_height, full_width, random, min_area=min_area)
        is_flipped = random.random() < (self.info.flip or 0)

        ratio = min(height, width) / self.image_size
        image.draft("RGB", (math.ceil(full_width / ratio), math.ceil(full_height / ratio)))
        scale_y, scale_x = image.size[1] / full_height, image.size[0] / full_width
        top, bottom = round(top * scale_y), round((top + height) * scale_y)
        left, right = round(left * scale_x), round((left + width) * scale_x)
        crop = _rgb(image.crop((left, top, right, bottom)))

        # A batch of one image, channels last: torch resizes it fast and keeps the layout.
        pixels = torch.from_numpy(np.array(crop))[None].permute(0, 3, 1, 2)
        is_known = self.info.interpolation in TRAINING_INTERPOLATIONS
        view = interpolate(
            pixels,
            size=(self.image_size, self.image_size),
            mode=self.info.interpolation if is_known else "bicubic",
            antialias=True,
        )
        return (view.flip(3) if is_flipped else view)[0].permute(1, 2, 0)


def random_crop(
    height: int, width: int, random: np.random.Generator, *, min_area: float = MIN_AREA
) -> tuple[int, int, int, int]:
    """Draw the (top, left, height, width) of a crop, as torchvision's RandomResizedCrop does.

    The area is uniform from `min_area` to 1, the logarithm of the aspect ratio uniform in `ASPECT`.
    After `ATTEMPTS` crops that do not fit it is the largest crop in the middle whose aspect ratio
    is in `ASPECT`.
    """
    for _ in range(ATTEMPTS):
        area = height * width * (min_area + (1 - min_area) * random.random())
        low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
        ratio = math.exp(low + (high - low) * random.random())
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(random.random() * (height - crop_height + 1))
            left = int(random.random() * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, round(height * ASPECT[1]))
    crop_height = min(height, round(width / ASPECT[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


class Normaliser:
    """Turns uint8 `(N, size, size, 3)` into float32 `(N, 3, size, size)`: (x / 255 − mean) / std.

    The same operations in the same order as the libraries' own, so that the results are equal bit
    for bit.

    Args:
        preprocessing: Supplies mean and std.
        image_size: Height and width, in pixels.
        device: Where the pixels are.
        channels_last: Whether the result keeps the pixels' memory layout, channels last.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        image_size: int,
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        self._channels_last = channels_last
        # With channels last, one row of an image is one vector in which each channel's constant
        # recurs: several times faster on a CPU than going channel by channel.
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device)
            for values in (preprocessing.mean, preprocessing.std)
        )
        self._mean = mean.repeat(image_size) if channels_last else mean.view(3, 1, 1)
        self._std = std.repeat(image_size) if channels_last else std.view(3, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the normalised images; the pixels are not changed."""
        if self._channels_last:
            rows = pixels.to(torch.float32).flatten(2)
            rows.div_(255).sub_(self._mean).div_(self._std)
            return rows.view(pixels.shape).permute(0, 3, 1, 2)
        planes = pixels.permute(0, 3, 1, 2)
        images = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return images.div_(255).sub_(self._mean).div_(self._std)


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # convert always copies


def _fit_with_border(image: Image.Image, wanted: Preprocessing) -> Image.Image:
    """Resize the longer side, pad the shorter one with the mean colour, crop in the middle."""
    from timm.data.transforms import (  # timm takes seconds to import, and few models need this
        CenterCropOrPad,
        ResizeKeepRatio,
    )

    size, mode = wanted.resize, wanted.interpolation
    resize = ResizeKeepRatio(size, longest=1.0, interpolation=mode)  # type: ignore[no-untyped-call]
    red, green, blue = (round(255 * value) for value in wanted.mean)
    crop = CenterCropOrPad(wanted.image_size, fill=(red, green, blue))
    fitted: Image.Image = crop(resize(image))
    return fitted
