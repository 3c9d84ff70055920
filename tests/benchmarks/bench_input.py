"""The input pipeline of training on one thread against timm's: the goal is at least 1.3.

Both go from JPEG files to a batch of augmented uint8 images, which is what worker processes do;
both are fed photographs of 500 × 375, ImageNet's usual size, made from those that SWA_TOOLS_DATA
names, or from scikit-learn's two.
"""

import io
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm.data
import torch
from PIL import Image

from swa_tools.data import open_images
from swa_tools.data.views import TrainingView
from swa_tools.data.workers import Decoder, Task

N_IMAGES, BATCH_SIZE, ROUNDS = 200, 40, 3


def sources():
    """Small photographs to enlarge."""
    folder = os.environ.get("SWA_TOOLS_DATA")
    if folder:
        return sorted(Path(folder).glob("imagenette/train/*/*.JPEG"))[::10][:N_IMAGES]
    from sklearn.datasets import load_sample_images

    return [io.BytesIO(encoded(Image.fromarray(array))) for array in load_sample_images().images]


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=94)
    return buffer.getvalue()


def make_photographs(folder):
    """Write files of about 100 KB, as ImageNet's are: the noise stands for fine detail."""
    random = np.random.default_rng(0)
    files = sources()
    total_bytes = 0
    for number in range(N_IMAGES):
        with Image.open(files[number % len(files)]) as image:
            large = image.convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)
        pixels = np.asarray(large) + random.normal(0, 8, (375, 500, 1))
        data = encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        (folder / str(number % 10)).mkdir(exist_ok=True)
        (folder / str(number % 10) / f"{number}.jpg").write_bytes(data)
        total_bytes += len(data)
    return total_bytes / N_IMAGES


def our_batches(folder, size, interpolation):
    images = open_images(folder)
    # timm draws one of both for every image; ours always takes the weights' own.
    own = "bicubic" if interpolation == "random" else interpolation
    decoder = Decoder(images.open, TrainingView(image_size=size, interpolation=own, seed=0))
    for first in range(0, len(images), BATCH_SIZE):
        part = slice(first, first + BATCH_SIZE)
        yield decoder[Task(0, np.arange(len(images))[part], images.paths[part])]


def timm_batches(folder, size, interpolation):
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder)),
        input_size=(3, size, size),
        batch_size=BATCH_SIZE,
        is_training=True,
        use_prefetcher=True,
        color_jitter=None,
        interpolation=interpolation,
        num_workers=0,
        persistent_workers=False,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    return iter(loader.loader)  # Without the conversion to floating point.


def milliseconds_per_image(batches):
    """CPU time of each batch: other work on the machine counts for little in it."""
    times = []
    for _ in range(N_IMAGES // BATCH_SIZE):
        start = time.process_time()
        next(batches)
        times.append((time.process_time() - start) / BATCH_SIZE * 1e3)
    return times


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{N_IMAGES} photographs of 500 × 375, {make_photographs(folder) / 1e3:.0f} KB each")
        for size, interpolation in ((224, "random"), (224, "bilinear"), (224, "bicubic")):
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours += milliseconds_per_image(our_batches(folder, size, interpolation))
                theirs += milliseconds_per_image(timm_batches(folder, size, interpolation))
            own, other = statistics.median(ours), statistics.median(theirs)
            print(
                f"{size} pixels, {interpolation}: swa-tools {1e3 / own:.0f} images/s, timm"
                f" {1e3 / other:.0f} images/s, {other / own:.2f} times"
            )


if __name__ == "__main__":
    main()
