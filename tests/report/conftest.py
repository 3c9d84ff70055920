"""A real browser, driven through the pipe of its developer tools: nothing to install but itself."""

import base64
import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest

from swa_tools.landscape.measurement_files import write_numbers
from swa_tools.landscape.width import ray_widths, segment_widths, width_differences
from swa_tools.measurements import describe
from swa_tools.records import Record, append_records
from swa_tools.report.contents import overview, run_section
from swa_tools.report.page import render_page
from swa_tools.report.runs import load_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, executable, profile):
        command_read, command_write = os.pipe()
        event_read, event_write = os.pipe()
        arguments = [
            *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
            *("--hide-scrollbars", "--disable-dev-shm-usage", "--disable-background-networking"),
            *("--disable-component-update", "--disable-extensions", f"--user-data-dir={profile}"),
            *(("--no-sandbox",) if os.geteuid() == 0 else ()),
        ]
        # The browser expects commands on descriptor 3 and answers on 4.
        script = f'exec "$0" "$@" 3<&{command_read} 4>&{event_write}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, executable, *arguments],
            pass_fds=(command_read, event_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(event_write)
        self._commands, self._events = os.fdopen(command_write, "wb"), os.fdopen(event_read, "rb")
        self._buffer, self._number, self._session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self):
        while b"\0" not in self._buffer:
            data = os.read(self._events.fileno(), 1 << 20)
            assert data, "the browser has died"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path, *, width, height=900, dark=False):
        """Load a file and wait until all of it is there, images included."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + SECONDS
        while self.evaluate("document.readyState") != "complete" or not self.evaluate(
            "[...document.images].every(image => image.complete)"
        ):
            assert time.monotonic() < end, "the page does not finish loading"
            time.sleep(0.05)

    def evaluate(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9
            )

    def requests(self):
        """Return the addresses that the page asked for, itself and data in it excepted."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self):
        """Return what stands on the console."""
        methods = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event["params"] for event in self.events if event["method"] in methods]

    def screenshot(self, path):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self._process.terminate()
        self._process.wait(timeout=SECONDS)
        self._commands.close()
        self._events.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def make_run(folder, *, n_cycles=3, n_epochs=None, seed=0, top1=60.0, average=None, **options):
    """Write a run directory with cycles of one epoch, its records, and the score of an average."""
    folder.mkdir(parents=True)
    name = folder.name
    n_epochs = n_epochs or n_cycles
    captures = [{"step": 15 * (i + 1), "epoch": i + 1.0} for i in range(n_cycles)]
    document = {
        "options": {"seed": seed, "optimizer": "sgd", "momentum": 0.9, **options},
        "command": f"swa-tools finetune timm/resnet18 -o {name} --seed {seed}",
        "model": {"name": "timm/resnet18"},
        "plan": {
            "n_images": 2000,
            "batch_size": 128,
            "steps_per_epoch": 15,
            "n_steps": 15 * n_epochs,
            "n_epochs": float(n_epochs),
            "schedule": {
                "name": "sawtooth",
                "lr_max": 0.05,
                "lr_min": 0.0005,
                "cycle_steps": 15 * n_epochs // n_cycles,
            },
            "captures": captures,
        },
        "versions": {"swa_tools": "0.1.0"},
    }
    (folder / "run.json").write_text(json.dumps(document))
    common = {"event": "evaluation", "split": "val", "n_samples": 1000, "nll": 1.1, "ece": 4.0}
    start = {"checkpoint": "start.safetensors", "kind": "start", "digest": "d0", "epoch": 0.0}
    records = [Record(**common, **start, top1=top1)]
    for i in range(1, n_cycles + 1):
        epoch = i * n_epochs / n_cycles
        for part, lr in ((0.5, 0.025), (1.0, 0.0005)):
            at = epoch - n_epochs / n_cycles * (1 - part)
            step = {"step": round(15 * at), "epoch": at, "cycle": i, "lr": lr}
            records.append(Record(event="step", train_loss=1.0, **step))
        records.append(
            Record(
                **common,
                checkpoint=f"cycle-{i:03d}.safetensors",
                kind="checkpoint",
                bn="trained",
                top1=top1 + i,
                **step,
            )
        )
    append_records(folder / "metrics.jsonl", records)
    if average is not None:
        average = Record(
            **common,
            checkpoint="swa.safetensors",
            kind="average",
            bn="updated",
            top1=average,
            command=f"swa-tools average {name} --data images -o swa.safetensors",
        )
        append_records(folder / "results.jsonl", [average])
    return folder


def make_surfaces(folder):
    """Write the numbers of a plane, rays, a segment and a trajectory into a folder."""
    random = np.random.default_rng(0)
    images = {"train": {"n_samples": 500}, "val": {"n_samples": 100}}
    named = [{"name": f"cycle-{i:03d}.safetensors", "kind": "checkpoint"} for i in range(1, 4)]
    swa = {"name": "swa.safetensors", "kind": "average"}

    def write(name, kind, arrays, **description):
        described = describe(kind, command=f"swa-tools {name}", images=images, **description)
        write_numbers(folder / f"{name}.npz", arrays=arrays, description=described)

    x = np.linspace(-1, 3, 6)
    bowl = 30 + (x[:, None] - 1) ** 2 + (x[None, :] - 1) ** 2
    plane = {
        "x": x,
        "y": x,
        "test_error": bowl,
        "train_objective": bowl / 20,
        "checkpoint_xy": np.array([(0.0, 0), (2, 0), (1, 2)]),
        "checkpoint_test_error": np.array([32.0, 32, 31]),
        "checkpoint_train_objective": np.array([1.6, 1.6, 1.55]),
        "projected_xyd": np.array([(1, 1, 0.5), (0.5, 0.5, 2.0)]),
    }
    start = {"name": "start.safetensors", "kind": "checkpoint"}
    write("plane", "plane", plane, checkpoints=named, projected=[swa, start])

    t = np.linspace(0, 10, 11)
    errors = 30 + (t**2) * (0.2 + 0.02 * random.random((2, 4, 1)))
    widths = [ray_widths(t, one) for one in errors]
    rays = {"t": t, "test_error": errors, "train_objective": errors / 20}
    checkpoints = [{**swa, "width": widths[0]}, {**named[0], "width": widths[1]}]
    wider = [width_differences(*widths)]
    write("rays", "rays", rays, checkpoints=checkpoints, n_rays=4, wider_than_next=wider)

    t = np.linspace(-1, 2, 13)
    is_correct = random.random((13, 100)) > 0.3 + 0.1 * (t[:, None] - 0.2) ** 2
    objective = 1.5 + (t - 0.5) ** 2
    segment = {
        "t": t,
        "position": 4 * t,
        "test_error": 100 * (1 - is_correct.mean(axis=1)),
        "train_objective": objective,
    }
    width = segment_widths(4 * t, objective=objective, is_correct=is_correct)
    write("segment", "segment", segment, checkpoints=[swa, named[0]], distance=4.0, width=width)

    n = 5
    exploration = {"measured": 0.7, "independent": 1.0, "random_walk": 0.5, "straight": 0.2}
    path = {
        "norms": np.full(n, 10.0),
        "to_mean": np.full(n, 1.0),
        "steps": np.full(n - 1, 1.2),
        "to_start": np.linspace(1, 2, n),
        "step_cosines": np.full(n - 2, -0.4),
        "deviation_cosines": np.full(n - 1, -0.2),
        "lag_profile": np.linspace(0.8, 1.2, n - 1),
    }
    write(
        "trajectory",
        "trajectory",
        path,
        checkpoints=[{"name": f"cycle-{i:03d}.safetensors"} for i in range(n)],
        n_parameters=1234,
        mean_norm=9.9,
        start="start.safetensors",
        start_norm=10.1,
        start_to_mean=1.4,
        exploration=dict.fromkeys(
            ("neighbour_distance", "deviation_cosine", "step_cosine"), exploration
        ),
    )


@pytest.fixture
def write_run(tmp_path):
    """Call `make_run` with a name below the test's folder."""
    return lambda name, **arguments: make_run(tmp_path / name, **arguments)


@pytest.fixture
def write_surfaces():
    return make_surfaces


@pytest.fixture(scope="session")
def full_page(tmp_path_factory):
    """The file of a page about four runs, with every kind of picture."""
    folder = tmp_path_factory.mktemp("page")
    long = "a-run-with-a-name-that-is-quite-a-bit-longer-than-a-phone-is-wide"
    folders = [
        make_run(folder / "swa-seed0", average=70.0, seed=0),
        make_run(folder / "swa-seed1", average=71.0, seed=1),
        make_run(folder / "sgd", n_cycles=1, n_epochs=3),
        make_run(folder / long, n_cycles=4, average=69.0, data="/very/long" * 30),
    ]
    make_surfaces(folders[0])
    runs = load_runs(folders)
    page = render_page("SWA report", overview(runs), [run_section(one, runs) for one in runs])
    (folder / "index.html").write_bytes(page)
    return folder / "index.html"
