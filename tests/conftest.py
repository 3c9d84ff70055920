import contextlib
import dataclasses
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

CLASSES = ("blue", "green", "red")


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
    generator = np.random.default_rng(0)
    for split, n_images in (("train", 8), ("val", 4)):
        for channel, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(n_images):
                pixels = generator.integers(0, 160, (36, 48, 3), dtype=np.uint8)
                pixels[:, :, 2 - channel] += 95
                image = Image.fromarray(pixels if number % 2 else pixels.swapaxes(0, 1))
                image.save(folder / split / name / f"{number}.JPEG")
    return folder


@pytest.fixture(scope="session")
def tiny_model():
    """The name of a small model with BatchNorm; milliseconds at 32 pixels."""
    return "timm/test_resnet"


@pytest.fixture(scope="session")
def tiny_network(tiny_model):
    """The small model for the classes of `image_folder`, untrained; do not change it."""
    import torch

    from swa_tools.models import create_model

    torch.manual_seed(0)
    built = create_model(tiny_model, num_classes=len(CLASSES), image_size=32)
    # With the statistics of other images than these, all of them would be of one class.
    tinted = torch.randn(64, 3, 32, 32) + 2 * torch.randn(64, 3, 1, 1)
    with torch.no_grad():
        for _ in range(20):
            built.module.train()(tinted)
        built.module.get_classifier().bias -= built.module.eval()(tinted).mean(0)
    return dataclasses.replace(built, info=dataclasses.replace(built.info, classes=CLASSES))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_network):
    """Write a checkpoint of the small model; return its path."""
    import torch

    from swa_tools import __version__
    from swa_tools.checkpoints import BnInfo, CheckpointMetadata, TrainingInfo
    from swa_tools.models import save_state_dict

    def moved(tensor, noise):
        if not tensor.is_floating_point():
            return tensor
        return tensor * (0.8 + 0.4 * torch.rand(tensor.shape, generator=noise))

    def write(path, state_dict=None, *, cycle=None, schedule="sawtooth", bn="trained", **changes):
        """Write other weights if given, or those of a cycle; changes go to the metadata."""
        metadata = CheckpointMetadata(
            kind="checkpoint",
            model=tiny_network.info,
            preprocessing=tiny_network.preprocessing,
            bn=BnInfo(state=bn),
            swa_tools=__version__,
        )
        if state_dict is None:
            state_dict = tiny_network.module.state_dict()
        if cycle is not None:
            noise = torch.Generator().manual_seed(cycle)
            state_dict = {name: moved(tensor, noise) for name, tensor in state_dict.items()}
            metadata = dataclasses.replace(
                metadata,
                training=TrainingInfo(
                    epoch=cycle,
                    step=7 * cycle,
                    cycle=cycle,
                    lr=1e-5,
                    schedule={"name": schedule},
                    seed=0,
                ),
            )
        save_state_dict(path, state_dict, dataclasses.replace(metadata, **changes))
        return path

    return write


@pytest.fixture(scope="session")
def _captures(tmp_path_factory, tiny_checkpoint):
    folder = tmp_path_factory.mktemp("captures") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    for cycle in (1, 2, 3):
        tiny_checkpoint(folder / "checkpoints" / f"cycle-{cycle:03d}.safetensors", cycle=cycle)
    tiny_checkpoint(folder / "average.safetensors", kind="average", bn="stale")
    return folder


@pytest.fixture
def read_all():
    """Read every tensor of a checkpoint as NumPy arrays."""

    from swa_tools.checkpoints import open_checkpoint

    def read(path, **options):
        with open_checkpoint(path, **options) as checkpoint:
            return {name: checkpoint.read(name) for name in checkpoint.tensors}

    return read


@pytest.fixture
def run_with_captures(_captures, tmp_path):
    """A run directory over the classes of `image_folder`: three captures and a stale average."""
    return Path(shutil.copytree(_captures, tmp_path / "run"))


class Started:
    """A process that runs the command line or a function, in a group of its own."""

    def __init__(self, nursery, pid, log):
        self._nursery = nursery
        self._log = log
        self.pid = pid

    def kill(self, number=signal.SIGKILL):
        """Send a signal to the process and its workers."""
        os.killpg(self.pid, number)

    def wait(self):
        """Return the exit status, negative for a signal."""
        return int(self._nursery.ask({"wait": self.pid}))

    @property
    def output(self):
        return self._log.read_text()


class Nursery:
    """Starts processes in no time: see nursery.py."""

    def __init__(self, folder):
        self._folder = folder
        self._n_started = 0
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def start(self, *arguments, function=None, largest_file=None, **environment):
        """Start `swa-tools` with these arguments, or the function that nursery.py is told.

        Writing more than `largest_file` bytes to a file fails, as on a full disk.
        """
        self._n_started += 1
        log = self._folder / f"{self._n_started}.log"
        request = {
            "arguments": [str(argument) for argument in arguments],
            "function": function,
            "environment": environment,
            "largest_file": largest_file,
            "log": str(log),
        }
        log.touch()
        return Started(self, int(self.ask(request)), log)

    def start_ranks(self, *arguments, world_size=2, **options):
        """Start as many processes on gloo, with the environment that torchrun gives."""
        port = free_port()
        return [
            self.start(
                *arguments,
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(world_size),
                LOCAL_WORLD_SIZE=str(world_size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                **options,
            )
            for rank in range(world_size)
        ]

    def run(self, *arguments, **options):
        """Run `swa-tools`; return its exit status and what it printed."""
        started = self.start(*arguments, **options)
        return started.wait(), started.output

    def run_ranks(self, *arguments, **options):
        """Run `swa-tools` on ranks; return what `run` does for each."""
        started = self.start_ranks(*arguments, **options)
        return [(process.wait(), process.output) for process in started]

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def free_port():
    """Choose a port that the system gives to nobody by itself meanwhile."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
def on_ranks(nursery, tmp_path):
    """Call a module-level function of the test file on ranks; return each one's result.

    It gets the context and the arguments, texts for JSON.
    """

    def run(function, *arguments, world_size=2):
        import torch

        place = [function.__code__.co_filename, function.__name__, str(tmp_path)]
        call = [*place, *map(str, arguments)]
        results = nursery.run_ranks(function=call, world_size=world_size)
        assert [status for status, _ in results] == [0] * world_size, results
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(world_size)]

    return run


@pytest.fixture
def file_server(tmp_path):
    """Serve the folder `tmp_path / "served"` on the web."""
    spec = importlib.util.spec_from_file_location(
        "file_server", Path(__file__).with_name("file_server.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "served").mkdir()
    with module.FileServer(tmp_path / "served") as server:
        yield server
