import time
from pathlib import Path

import pytest

from swa_tools.training.options import FinetuneOptions


@pytest.fixture(scope="session")
def recipe(image_folder):
    """The arguments of a small run: 3 cycles of 6 steps."""
    return (
        *("timm/test_efficientnet", "--no-pretrained", "--new-head", "--image-size", 32),
        *("--data", image_folder, "--workers", 0, "--device", "cpu", "--batch-size", 4),
        *("--epochs", 3, "--lr-max", 0.05, "--lr-min", 0.001, "--log-every", 2),
    )


@pytest.fixture(scope="session")
def finished_run(nursery, recipe, tmp_path_factory):
    """The small run, uninterrupted; read it, do not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    status, output = nursery.run("finetune", *recipe, "-o", folder)
    assert status == 0, output
    return folder


def _files(run: Path):
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "resume.pt")
    }


@pytest.fixture
def files():
    """The bytes of a run's files, but for those that hold times or the command line."""
    return _files


@pytest.fixture
def options(image_folder, tmp_path):
    """Options of the small run, with changes."""

    def make(**changes):
        fields = {
            "model": "timm/test_efficientnet",
            "pretrained": False,
            "new_head": True,
            "image_size": 32,
            "data": image_folder,
            "workers": 0,
            "device": "cpu",
            "batch_size": 4,
            "epochs": 2,
            "log_every": 2,
            "output": tmp_path / "run",
        }
        return FinetuneOptions(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def wait_for_steps():
    """Wait until a run has recorded a step."""

    def wait(run):
        deadline = time.monotonic() + 120
        metrics = run / "metrics.jsonl"
        while not metrics.exists() or '"step"' not in metrics.read_text():
            assert time.monotonic() < deadline, f"{run} does not get to its first step"
            time.sleep(0.02)

    return wait
