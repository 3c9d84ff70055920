"""Ten checkpoints in one pass against ten passes, where decoding images dominates.

The goal is at least 3 times faster.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from swa_tools.data import open_images
from swa_tools.distributed import single_process
from swa_tools.evaluation import EvaluationOptions, evaluate_checkpoints
from swa_tools.models import create_model, save_state_dict

MODEL, IMAGE_SIZE = "timm/test_resnet", 48
N_CHECKPOINTS, N_IMAGES = 10, 200
ROUNDS = 2


def make_images(folder):
    """Smooth images, as photographs are."""
    random = np.random.default_rng(0)
    for number in range(N_IMAGES):
        small = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        path = folder / "01"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        small.resize((800, 600), Image.Resampling.BICUBIC).save(path, quality=95)


def make_checkpoints(folder):
    for seed in range(N_CHECKPOINTS):
        torch.manual_seed(seed)
        module = create_model(MODEL, num_classes=2).module
        save_state_dict(folder / f"{seed}.safetensors", module.state_dict(), None)
        yield folder / f"{seed}.safetensors"


def seconds(paths, images, *, at_once):
    options = EvaluationOptions(model=MODEL, image_size=IMAGE_SIZE, at_once=at_once)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        evaluate_checkpoints(paths, images, options=options, context=single_process())
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        make_images(folder / "images")
        images = open_images(folder / "images")
        paths = list(make_checkpoints(folder))
        seconds(paths[:1], images, at_once=1)
        one_by_one = sum(seconds([path], images, at_once=1) for path in paths)
        print(f"{N_CHECKPOINTS} checkpoints, {N_IMAGES} images: {one_by_one:.2f} s one by one")
        for at_once in (N_CHECKPOINTS, 4, 1):
            together = seconds(paths, images, at_once=at_once)
            print(
                f"in one pass, {at_once:2} at once: {together:.2f} s,"
                f" {one_by_one / together:.1f} times faster"
            )


if __name__ == "__main__":
    main()
