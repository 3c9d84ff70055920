import json
import subprocess
import sys

import pytest

from swa_tools.cli import run
from swa_tools.measurements import read_numbers


@pytest.fixture
def trajectory(capsys):
    def call(*arguments):
        status = run(["trajectory", *map(str, arguments)])
        return status, capsys.readouterr()

    return call


def test_a_run_is_told_in_tables_against_what_is_expected(trajectory, small_run):
    status, printed = trajectory(small_run)
    assert status == 0
    for text in ("cycle-003", "to the start", "independent samples", "random walk", "captures"):
        assert text in printed.out
    assert printed.err == ""


def test_numbers_and_picture_are_written_and_drawn_again(trajectory, small_run, tmp_path):
    output = tmp_path / "path.npz"
    assert trajectory(small_run, "-o", output)[0] == 0
    assert read_numbers(output).description["start"] == "start.safetensors"
    assert (tmp_path / "path.png").exists()
    status, printed = trajectory("--from", output, "--plot", tmp_path / "path.svg", "--json")
    assert status == 0
    assert json.loads(printed.out)["kind"] == "trajectory"
    assert (tmp_path / "path.svg").exists()


def test_a_picture_needs_no_numbers_on_disk(trajectory, small_run, tmp_path):
    assert trajectory(small_run, "--plot", tmp_path / "path.svg")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run", "path.svg"}


def test_a_start_may_be_named(trajectory, small_run):
    paths = sorted((small_run / "checkpoints").iterdir())
    status, printed = trajectory(*paths, "--start", small_run / "average.safetensors", "--json")
    assert status == 0
    assert json.loads(printed.out)["start"] == "average.safetensors"


def test_trajectory_loads_no_torch(small_run, tmp_path):
    script = f"""
import sys
from swa_tools.cli import run
assert run(["trajectory", {str(small_run)!r}, "-o", {str(tmp_path / "path.npz")!r}]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 1, "at least 3 checkpoints, found 0"),
        (["missing"], 1, "missing: no such file"),
        (["--from", "x.npz", "-o", "y.npz"], 2, "--from draws what was measured"),
    ],
)
def test_mistakes_are_told(trajectory, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    found, printed = trajectory(*arguments)
    assert found == status
    assert message in printed.err
