"""`plane`, with what it shares with `ray` and `segment`."""

import json
import signal
import subprocess
import sys
import time

import pytest

from swa_tools.cli import run
from swa_tools.measurements import read_numbers

SMALL = ["--points", "2", "--train-samples", "6", "--val-samples", "6", "--bn-samples", "9"]
QUICK = ["--device", "cpu", "--workers", "0", "--batch-size", "4"]


@pytest.fixture
def plane(small_run, image_folder, capsys):
    """Call the command on the run's captures; return its exit status and what it printed."""

    def call(*arguments, captures=3):
        paths = sorted((small_run / "checkpoints").iterdir())[:captures]
        given = [*paths, "--data", image_folder, *SMALL, *QUICK, *arguments]
        status = run(["plane", *map(str, given)])
        return status, capsys.readouterr()

    return call


def test_numbers_description_and_picture_are_written(plane, small_run, tmp_path):
    output = tmp_path / "plane.npz"
    average = small_run / "average.safetensors"
    status, printed = plane("-o", output, "--project", average)
    assert status == 0, printed.err
    assert "cycle-002.safetensors" in printed.out
    assert "average.safetensors" in printed.out
    numbers = read_numbers(output)
    assert numbers.arrays["test_error"].shape == (2, 2)
    assert numbers.description["command"].startswith("swa-tools ")
    assert numbers.description["weight_decay"] == 0.01  # the run's own
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "plane.json").read_text())["kind"] == "plane"


@pytest.mark.parametrize(
    ("options", "arguments", "expected"),
    [
        ({"optimizer": "adamw", "weight_decay": 0.05}, [], (0.0, False)),
        ({"optimizer": "sgd", "weight_decay": 0.2, "no_decay_norm_bias": True}, [], (0.2, True)),
        ({}, [], (1e-4, False)),
        ({"weight_decay": 0.2}, ["--weight-decay", "0.5", "--no-decay-norm-bias"], (0.5, True)),
    ],
)
def test_decay_is_the_runs_own_unless_given(
    plane, small_run, tmp_path, options, arguments, expected
):
    (small_run / "run.json").write_text(json.dumps({"options": options}))
    assert plane("-o", tmp_path / "plane.npz", *arguments)[0] == 0
    found = read_numbers(tmp_path / "plane.npz").description
    assert (found["weight_decay"], found["no_decay_norm_bias"]) == expected


def test_corners_are_not_projected_again(plane, small_run, tmp_path):
    status, printed = plane("-o", tmp_path / "plane.npz", "--project", small_run)
    assert status == 0, printed.err
    description = read_numbers(tmp_path / "plane.npz").description
    assert description["projected"] == []


def test_pictures_are_drawn_again_without_torch(plane, tmp_path):
    output = tmp_path / "plane.npz"
    assert plane("-o", output)[0] == 0
    script = f"""
import sys
from swa_tools.cli import run
status = run(["plane", "--from", {str(output)!r}, "--plot", {str(tmp_path / "again.svg")!r},
              "--plot", {str(tmp_path / "again.pdf")!r}, "--size", "6x3"])
assert status == 0 and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert b"<svg" in (tmp_path / "again.svg").read_bytes()
    assert (tmp_path / "again.pdf").read_bytes().startswith(b"%PDF")


def test_json_is_the_description_and_nothing_else(plane, tmp_path):
    status, printed = plane("-o", tmp_path / "plane.npz", "--json")
    assert status == 0
    assert json.loads(printed.out) == json.loads((tmp_path / "plane.json").read_text())


def test_nothing_is_overwritten_without_force(plane, tmp_path):
    output = tmp_path / "plane.npz"
    (tmp_path / "plane.png").write_text("mine")
    status, printed = plane("-o", output)
    assert status == 1
    assert "plane.png: it exists already" in printed.err
    assert not output.exists()
    assert plane("-o", output, "--force")[0] == 0
    status, printed = plane("-o", output, "--plot", tmp_path / "other.png")
    assert status == 1
    assert "it exists already" in printed.err


@pytest.mark.parametrize(
    ("arguments", "captures", "status", "message"),
    [
        (["-o", "x.npz"], 2, 1, "a plane needs 3 checkpoints, found 2"),
        (["-o", "x.txt"], 3, 1, "written as .npz"),
        (["-o", "x.npz", "--plot", "x.jpeg"], 3, 1, "which kind of picture"),
        (["-o", "x.npz", "--project", "missing.safetensors"], 3, 1, "missing.safetensors: no such"),
        ([], 3, 2, "Give either -o FILE.npz"),
        (["-o", "x.npz", "--from", "y.npz"], 3, 2, "Give either -o FILE.npz"),
        (["--from", "missing.npz"], 0, 1, "missing.npz: cannot read this file"),
        (["-o", "x.npz", "--size", "large"], 3, 2, "such as 6.4x4"),
    ],
)
def test_mistakes_are_one_line(plane, tmp_path, monkeypatch, arguments, captures, status, message):
    monkeypatch.chdir(tmp_path)
    found, printed = plane(*arguments, captures=captures)
    assert found == status
    assert message in printed.err
    assert "Traceback" not in printed.err
    if status == 1:
        assert printed.err.count("\n") == 1


def test_numbers_of_another_kind_are_refused(plane, tmp_path, capsys):
    assert plane("-o", tmp_path / "plane.npz")[0] == 0
    assert run(["ray", "--from", str(tmp_path / "plane.npz"), "--force"]) == 1
    assert "expected numbers of kind rays, found plane" in capsys.readouterr().err


def test_a_killed_command_goes_on_where_it_was(nursery, small_run, image_folder, tmp_path):
    paths = sorted((small_run / "checkpoints").iterdir())
    output, points = tmp_path / "plane.npz", tmp_path / "plane.npz.points"
    options = ["--points", "6", "--train-samples", "6", "--val-samples", "6", "--bn-samples", "9"]
    command = ["plane", *paths, "--data", image_folder, *options, *QUICK, "-o", output]
    process = nursery.start(*command)
    deadline = time.monotonic() + 120
    while _count(points) < 2:
        assert time.monotonic() < deadline, process.output
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    n_points, n_done = 3 + 36, _count(points)
    assert 2 <= n_done < n_points
    assert not output.exists()
    status, printed = nursery.run(*command)
    assert status == 0, printed
    assert f"{n_done} of {n_points} points are already done" in printed
    assert not points.exists()
    assert read_numbers(output).arrays["test_error"].shape == (6, 6)


def _count(points):
    """Return how many whole points are in the file."""
    try:
        lines = points.read_text().split("\n")
    except FileNotFoundError:
        return 0
    return sum(line.startswith('{"point"') and line.endswith("}") for line in lines)
