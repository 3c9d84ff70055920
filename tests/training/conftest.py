import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swa_tools.training.options import FinetuneOptions

NURSERY = textwrap.dedent("""
    import json, os, resource, signal, sys, time
    import torch
    import timm
    import swa_tools.cli, swa_tools.cli.commands.finetune, swa_tools.training.loop

    torch.set_num_threads(1)

    def wait(pid):
        deadline = time.monotonic() + 120
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.01)

    def run(request):
        os.setsid()
        with open(request["log"], "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ.update(request["environment"])
        if request["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
        sys.argv = ["swa-tools", *request["arguments"]]
        swa_tools.cli.main(request["arguments"])

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(wait(request["wait"]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            try:
                run(request)
            except SystemExit as end:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(end.code if isinstance(end.code, int) else 1)
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(99)
        print(pid, flush=True)
""")
"""A process that has imported everything, and forks the processes of the tests: importing takes
longer than their work."""


class Started:
    """A process that runs the command line, in a group of its own."""

    def __init__(self, nursery, pid, log):
        self._nursery = nursery
        self._log = log
        self.pid = pid
        self.started = time.monotonic()

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
    def __init__(self, folder):
        self._folder = folder
        self._n_started = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def start(self, *arguments, largest_file=None, **environment):
        """Start `swa-tools finetune` with these arguments.

        Writing more than `largest_file` bytes to a file fails, as on a full disk.
        """
        self._n_started += 1
        log = self._folder / f"{self._n_started}.log"
        request = {
            "arguments": ["finetune", *map(str, arguments)],
            "environment": environment,
            "largest_file": largest_file,
            "log": str(log),
        }
        log.touch()
        return Started(self, int(self.ask(request)), log)

    def run(self, *arguments, **environment):
        """Run `swa-tools finetune`; return its exit status and what it printed."""
        started = self.start(*arguments, **environment)
        return started.wait(), started.output

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with 48 images for training and 12 for validation, in three classes."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, n_images in (("train", 16), ("val", 4)):
        for number, name in enumerate(("apple", "banana", "cherry")):
            (folder / split / name).mkdir(parents=True)
            for image in range(n_images):
                pixels = random.integers(0, 120, (36, 40, 3), dtype=np.uint8)
                pixels[..., number] += 90
                Image.fromarray(pixels).save(folder / split / name / f"{image}.png")
    return folder


@pytest.fixture(scope="session")
def recipe(photos):
    """The arguments of a small run: 3 cycles of 6 steps."""
    return (
        *("timm/test_efficientnet", "--no-pretrained", "--new-head", "--image-size", 32),
        *("--data", photos, "--workers", 0, "--device", "cpu", "--batch-size", 8),
        *("--epochs", 3, "--lr-max", 0.05, "--lr-min", 0.001, "--log-every", 2),
    )


@pytest.fixture(scope="session")
def finished_run(nursery, recipe, tmp_path_factory):
    """The small run, uninterrupted; read it, do not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    status, output = nursery.run(*recipe, "-o", folder)
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
def options(photos, tmp_path):
    """Options of the small run, with changes."""

    def make(**changes):
        fields = {
            "model": "timm/test_efficientnet",
            "pretrained": False,
            "new_head": True,
            "image_size": 32,
            "data": photos,
            "workers": 0,
            "device": "cpu",
            "batch_size": 8,
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
