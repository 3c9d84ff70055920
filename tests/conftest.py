import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

WORKER = textwrap.dedent("""
    import importlib.util, sys, torch
    from swa_tools.distributed import distributed

    file, name, folder = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("functions_of_a_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with distributed("cpu") as context:
        result = getattr(module, name)(context)
        torch.save(result, f"{folder}/{context.rank}.pt")
""")


@pytest.fixture
def real_data():
    folder = os.environ.get("SWA_TOOLS_DATA")
    if not folder:
        pytest.skip("SWA_TOOLS_DATA does not name the real images and weights")
    return Path(folder)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A small data set of JPEGs: train/ (8 a class) and val/ (4), three classes told by colour."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, n_images in (("train", 8), ("val", 4)):
        for channel, name in enumerate(("blue", "green", "red")):
            (folder / split / name).mkdir(parents=True)
            for number in range(n_images):
                pixels = random.integers(0, 160, (36, 48, 3), dtype=np.uint8)
                pixels[:, :, 2 - channel] += 95
                image = Image.fromarray(pixels if number % 2 else pixels.swapaxes(0, 1))
                image.save(folder / split / name / f"{number}.JPEG")
    return folder


@pytest.fixture(scope="session")
def tiny_model():
    """The name of a small model with BatchNorm; milliseconds at 32 pixels."""
    return "timm/test_resnet"


@pytest.fixture
def on_ranks(tmp_path):
    """Call a module-level function of the test file under torchrun; return each rank's result."""

    def run(function, *, world_size=2):
        import torch

        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        arguments = [script, function.__code__.co_filename, function.__name__, tmp_path]
        finished = subprocess.run(
            [sys.executable, *launcher, str(world_size), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert finished.returncode == 0, finished.stderr
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(world_size)]

    return run
