import pytest

from swa_tools.cli import run
from swa_tools.measurements import read_numbers

QUICK = ["--device", "cpu", "--workers", "0", "--batch-size", "4"]
SMALL = ["--train-samples", "6", "--val-samples", "6", "--bn-samples", "9"]


def test_rays_are_measured_drawn_and_told_in_a_table(small_run, image_folder, tmp_path, capsys):
    output = tmp_path / "rays.npz"
    checkpoints = [
        small_run / "average.safetensors",
        small_run / "checkpoints/cycle-001.safetensors",
    ]
    given = [*checkpoints, "--rays", 2, "--points", 1, "--distance", 3, "-o", output]
    arguments = [*given, "--data", image_folder, *QUICK, *SMALL]
    assert run(["ray", *map(str, arguments)]) == 0
    printed = capsys.readouterr().out
    assert "average.safetensors − cycle-001.safetensors" in printed
    assert "+5 points" in printed
    numbers = read_numbers(output)
    assert numbers.arrays["t"].tolist() == [0, 3]
    assert [one["kind"] for one in numbers.description["checkpoints"]] == ["average", "checkpoint"]
    assert (tmp_path / "rays.png").exists()


@pytest.mark.parametrize("option", ["--rays", "--points"])
def test_zero_is_wrong_usage(small_run, tmp_path, capsys, option):
    arguments = ["ray", str(small_run), option, "0", "-o", str(tmp_path / "x.npz")]
    assert run(arguments) == 2
    assert "0 is not in the range" in capsys.readouterr().err


def test_no_checkpoint_is_an_error(image_folder, tmp_path, capsys):
    arguments = ["ray", "--data", str(image_folder), "-o", str(tmp_path / "x.npz"), *QUICK]
    assert run(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
