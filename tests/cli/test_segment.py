import pytest

from swa_tools.cli import run
from swa_tools.measurements import read_numbers

QUICK = ["--device", "cpu", "--workers", "0", "--batch-size", "4"]
SMALL = ["--train-samples", "6", "--val-samples", "6", "--bn-samples", "9"]


def test_segment_is_measured_drawn_and_told_in_a_table(small_run, image_folder, tmp_path, capsys):
    output = tmp_path / "segment.npz"
    ends = [small_run / "average.safetensors", small_run / "checkpoints/cycle-001.safetensors"]
    given = [*ends, "--points", 2, "--beyond", 0.5, "-o", output, "--plot", tmp_path / "s.svg"]
    arguments = [*given, "--data", image_folder, *QUICK, *SMALL]
    assert run(["segment", *map(str, arguments)]) == 0
    printed = capsys.readouterr().out
    assert "shift of the test error's minimum" in printed
    assert "asymmetry at +5 points" in printed
    assert read_numbers(output).arrays["t"].tolist() == [-0.5, 0, 0.5, 1, 1.5]
    assert b"<svg" in (tmp_path / "s.svg").read_bytes()
    assert not (tmp_path / "segment.png").exists()


@pytest.mark.parametrize("n", [0, 1])
def test_two_checkpoints_are_needed(small_run, image_folder, tmp_path, capsys, n):
    paths = [str(small_run / "average.safetensors")][:n]
    arguments = [*paths, "--data", str(image_folder), "-o", str(tmp_path / "x.npz"), *QUICK]
    assert run(["segment", *arguments]) == 1
    assert f"a segment needs exactly two checkpoints, found {n}" in capsys.readouterr().err
