import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import hypothesis
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


def pytest_configure():
    # A job in the background, or under nohup, begins with Ctrl-C ignored, and so would the
    # processes that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A slow machine is no bug.
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")


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


@pytest.fixture(scope="session")
def _captures(tmp_path_factory, tiny_model):
    import torch

    from swa_tools import __version__
    from swa_tools.checkpoints import BnInfo, CheckpointMetadata, TrainingInfo
    from swa_tools.models import create_model, save_state_dict

    folder = tmp_path_factory.mktemp("captures") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    torch.manual_seed(0)
    built = create_model(tiny_model, num_classes=3, image_size=32)
    metadata = CheckpointMetadata(
        kind="checkpoint",
        model=dataclasses.replace(built.info, classes=("blue", "green", "red")),
        preprocessing=built.preprocessing,
        bn=BnInfo(state="trained"),
        swa_tools=__version__,
    )
    for cycle in (1, 2, 3):
        noise = torch.Generator().manual_seed(cycle)
        state_dict = {
            name: tensor + 0.05 * torch.rand(tensor.shape, generator=noise)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in built.module.state_dict().items()
        }
        training = TrainingInfo(
            epoch=cycle, step=7 * cycle, cycle=cycle, lr=1e-5, schedule={"name": "sawtooth"}, seed=0
        )
        save_state_dict(
            folder / "checkpoints" / f"cycle-{cycle:03d}.safetensors",
            state_dict,
            dataclasses.replace(metadata, training=training),
        )
    average = dataclasses.replace(metadata, kind="average", bn=BnInfo(state="stale"))
    save_state_dict(folder / "average.safetensors", built.module.state_dict(), average)
    return folder


@pytest.fixture
def run_with_captures(_captures, tmp_path):
    """A run directory over the classes of `image_folder`: three captures and a stale average."""
    return Path(shutil.copytree(_captures, tmp_path / "run"))


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
