import numpy as np
import pytest
from PIL import Image

from swa_tools.checkpoints import Preprocessing


@pytest.fixture
def preprocessing():
    return Preprocessing(
        image_size=32,
        resize=36,
        crop="center",
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def photograph(width, height, *, seed=0):
    """Smooth structures and some noise, as in a photograph."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = pixels + random.integers(-12, 13, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(name="photograph")
def _photograph():
    return photograph


@pytest.fixture
def odd_images(tmp_path):
    """Files as they occur in ImageNet: all shapes, other colour modes, PNG called JPEG."""
    files = {
        "wide.JPEG": photograph(97, 41),
        "tall.JPEG": photograph(41, 97),
        "smaller-than-the-crop.JPEG": photograph(20, 17),
        "large.JPEG": photograph(500, 375),
        "gray.JPEG": photograph(60, 50).convert("L"),
        "cmyk.JPEG": photograph(60, 50).convert("CMYK"),
        "palette.png": photograph(60, 50).convert("P"),
        "alpha.png": photograph(60, 50).convert("RGBA"),
    }
    for name, image in files.items():
        image.save(tmp_path / name, quality=92)
    palette = files["palette.png"].copy()
    palette.save(tmp_path / "transparent.png", transparency=bytes(range(256)))
    photograph(60, 50).save(tmp_path / "png-inside.JPEG", format="PNG")
    return sorted(tmp_path.iterdir())
