import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swa_tools.checkpoints import read_metadata
from swa_tools.cli import run


@pytest.fixture
def call(capsys):
    def invoke(*arguments, status=0):
        assert run(["finetune", *map(str, arguments)]) == status
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured

    return invoke


@pytest.fixture
def small(image_folder):
    """The arguments of a run of 4 steps an epoch."""
    return (
        *("timm/test_efficientnet", "--no-pretrained", "--new-head", "--image-size", 32),
        *("--data", image_folder, "--workers", 0, "--device", "cpu", "--batch-size", 6),
        *("--epochs", 2, "--lr-max", 0.01),
    )


def test_results_go_to_stdout_and_the_rest_to_stderr(call, small, tmp_path):
    printed = call(*small, "-o", tmp_path / "run")
    for name in ("start", "cycle-001", "cycle-002"):
        assert f"{name}.safetensors" in printed.out
    assert "8 steps of 6 images, 4 in an epoch; 2 captures" in printed.err
    assert f"swa-tools average {tmp_path / 'run'} --data DIR" in printed.err


def test_json_is_one_document_on_stdout(call, small, tmp_path):
    document = json.loads(call(*small, "--json", "-o", tmp_path / "run").out)
    assert document["step"] == document["n_steps"] == 8
    assert document["stopped_by"] is None
    assert [r["checkpoint"] for r in document["evaluations"]] == [
        "start.safetensors",
        "cycle-001.safetensors",
        "cycle-002.safetensors",
    ]
    assert len(document["checkpoints"]) == 2


def test_plan_says_what_would_be_done_and_does_nothing(call, small, tmp_path):
    plan = (*small, "--epochs", 2.5, "--plan", "-o", tmp_path / "run")
    printed = call(*plan, "--plot-schedule", tmp_path / "schedule.png").out
    assert "10 = 2.5 epochs of 4" in printed
    assert "cycle 3 is not completed" in printed
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads(call(*plan, "--json").out)
    assert [capture["step"] for capture in document["captures"]] == [4, 8]
    assert document["schedule"]["cycle_steps"] == 4
    assert document["captures_bytes"] == 2 * document["checkpoint_bytes"]
    assert not (tmp_path / "run").exists()


def test_plan_counts_what_is_kept_and_needs_no_folder(call, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = (*small, "--ema", 0.9, "--keep-checkpoints", 1, "--swa-online", "--plan")
    document = json.loads(call(*plan, "--json").out)
    n_bytes = document["checkpoint_bytes"]
    names = ("captures_bytes", "ema_bytes", "start_bytes", "average_bytes")
    assert [document[name] for name in names] == [n_bytes] * 4
    assert document["total_bytes"] == 4 * n_bytes + 2 * document["resume_bytes"]
    printed = call(*plan).out
    size = f"{n_bytes / 1e6:.1f} MB"
    assert f"captures    2 (1 kept) of {size} each, {size} together" in printed
    assert f"{document['total_bytes'] / 1e6:.1f} MB with the start, their moving ave" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_complete_cycle_has_nothing_to_average(call, small, tmp_path):
    arguments = (*small, "--epochs", 0.5, "--then-average", "-o", tmp_path / "run")
    assert "completes no cycle" in call(*arguments, status=1).err
    assert "completes no cycle" in call(*arguments, "--plan", status=1).err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--keep-checkpoints", 1), "s spent on points to resume from\n"),
        (("--swa-online", "--keep-checkpoints", "none"), "the average of the captures is "),
    ],
)
def test_the_last_line_does_not_ask_to_average_what_is_not_there(
    call, small, tmp_path, arguments, hint
):
    printed = call(*small, *arguments, "-o", tmp_path / "run").err
    assert "swa-tools average" not in printed
    assert hint in printed


def test_what_follows_a_run_is_kept_with_its_options(call, small, tmp_path):
    run = tmp_path / "run"
    call(*small, "--epochs", 1, "--then-average", "-o", run)
    first = json.loads((run / "run.json").read_text())
    assert first["command"].startswith("swa-tools finetune timm/test_efficientnet --no-pretrained")
    assert first["resolved"] == {"device": "cpu", "amp": "off"}
    (run / "swa.safetensors").unlink()
    call("--resume", run, "--epochs", 2)
    assert len(read_metadata(run / "swa.safetensors").average.sources) == 2
    again = json.loads((run / "run.json").read_text())
    assert again["command"] == first["command"]
    assert again["options"] == first["options"] | {"epochs": 2.0}
    call("--config", run / "run.json", "--epochs", 1, "-o", tmp_path / "other")
    assert (tmp_path / "other" / "swa.safetensors").exists()


def test_then_average_does_the_whole_job(call, small, tmp_path):
    printed = call(*small, "--then-average", "-o", tmp_path / "run")
    for name in ("start", "cycle-001", "cycle-002", "swa"):
        assert f"{name}.safetensors" in printed.out
    metadata = read_metadata(tmp_path / "run" / "swa.safetensors")
    assert metadata.bn.state == "updated"
    assert len(metadata.average.sources) == 2
    assert "swa.safetensors" in (tmp_path / "run" / "results.jsonl").read_text()


def test_a_run_is_repeated_from_its_description_and_options_go_before_it(call, small, tmp_path):
    arguments = (*small, "--model-kwargs", "drop_rate=0.1", "--validate-every", "never")
    call(*arguments, "-o", tmp_path / "a")
    config = ("--config", tmp_path / "a" / "run.json")
    call(*config, "-o", tmp_path / "b")
    call(*config, "--epochs", 1, "-o", tmp_path / "c")
    first, second = (
        tmp_path / name / "checkpoints" / "cycle-002.safetensors" for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()
    assert len(list((tmp_path / "c" / "checkpoints").iterdir())) == 1


def test_a_run_is_resumed_by_its_folder_alone_and_made_longer(call, small, tmp_path):
    call(*small, "--epochs", 1, "-o", tmp_path / "run")
    printed = call("--resume", tmp_path / "run", "--epochs", 2)
    assert f"resuming {tmp_path / 'run'} after step 4" in printed.err
    assert (tmp_path / "run" / "checkpoints" / "cycle-002.safetensors").exists()


def test_a_multistep_run_with_arguments_of_the_model_is_resumed(call, small, tmp_path):
    steps = ("--schedule", "multistep", "--milestones", "1,1.5", "--model-kwargs", "drop_rate=0.1")
    call(*small, *steps, "-o", tmp_path / "run")
    call("--resume", tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("timm/test_resnet",), 2, "Missing option '-o'"),
        (("timm/test_resnet", "-o", "run", "--schedule", "zigzag"), 2, "Invalid value"),
        (("timm/test_resnet", "-o", "run", "--keep-checkpoints", "few"), 2, "all, none or a num"),
        (
            ("timm/test_resnet", "-o", "run", "--swa-online", "--then-average"),
            2,
            "out --then-average",
        ),
        (("timm/test_resnet", "-o", "run", "--epochs", "nan"), 2, "expected a finite number"),
        (("timm/test_resnet", "-o", "run", "--clip-grad", "inf"), 2, "expected a finite number"),
        (("timm/test_resnet", "-o", "run", "--data", "missing"), 1, "Error: missing: "),
        (("timm/test_resnet", "-o", "run"), 1, "--data"),
        (("timm/test_resnet", "-o", "run", "--data", "x", "--device", "tpu9"), 1, "Error: "),
        (("--resume", "missing"), 1, "Error: missing/run.json: there is no such file"),
        (("--config", "missing.json", "-o", "run"), 1, "Error: missing.json: there is no such f"),
    ],
)
def test_wrong_input_is_one_line_and_a_status(
    call, tmp_path, monkeypatch, arguments, status, message
):
    monkeypatch.chdir(tmp_path)
    printed = call(*arguments, status=status)
    assert message in printed.err
    assert printed.out == ""
    if status == 1:
        assert len(printed.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bad_image_is_named_and_left_out_on_request(call, small, image_folder, tmp_path):
    images = shutil.copytree(image_folder, tmp_path / "images")
    (images / "train" / "blue" / "3.JPEG").write_bytes(b"no image")
    arguments = (*small, "--data", images, "-o", tmp_path / "run")
    printed = call(*arguments, status=1)
    assert "blue/3.JPEG" in printed.err
    assert "--skip-bad-images" in printed.err.splitlines()[-1]
    printed = call(*arguments, "--force", "--skip-bad-images")
    assert "1 images could not be read and were left out" in printed.err


def test_an_output_that_exists_is_kept(call, small, tmp_path):
    call(*small, "--epochs", 1, "-o", tmp_path / "run")
    printed = call(*small, "-o", tmp_path / "run", status=1)
    assert "--resume" in printed.err
    assert "--force" in printed.err


def test_help_puts_every_option_under_a_heading(call):
    printed = call("--help").out
    for heading in ("Model:", "Images:", "Learning rate:", "Stopping and resuming:"):
        assert heading in printed
    assert printed.count("--lr-max FLOAT") == 1
    assert "Example" in printed


@pytest.mark.slow
def test_the_example_of_the_paper_runs_on_small_images(image_folder, tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    command = commands / "swa-tools"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m swa_tools "$@"\n')
    command.chmod(0o755)
    script = Path(__file__).parents[2] / "examples" / "imagenet_resnet50.sh"
    small = "--no-pretrained --new-head --image-size 32 --workers 0 --batch-size 4"
    finished = subprocess.run(
        ["bash", script, image_folder, tmp_path / "runs", *small.split()],
        env={
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "MODEL": "timm/test_efficientnet",
            "N_GPUS": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    table = finished.stdout.split("swa-10.safetensors")[-2:]
    assert "start.safetensors" in table[0]


def test_a_capture_knows_how_it_was_trained_and_the_recompute_uses_it(
    call, small, image_folder, tmp_path
):
    """The same bytes by --then-average, by `average RUN --data`, and from the data in two steps."""
    folder = tmp_path / "run"
    call(*small, "--min-crop-area", 0.6, "--seed", 3, "--then-average", "-o", folder)
    metadata = read_metadata(folder / "checkpoints" / "cycle-002.safetensors")
    assert (metadata.view.size, metadata.view.min_area, metadata.view.flip) == (32, 0.6, 0.5)
    assert (metadata.data.n_samples, metadata.data.batch_size, metadata.data.seed) == (24, 6, 3)
    swa = read_metadata(folder / "swa.safetensors")
    assert (swa.view, swa.bn.view, swa.data) == (metadata.view, metadata.view, metadata.data)
    # The run's own batches of 6 are too small for statistics.
    assert (swa.bn.batch_size, swa.bn.seed) == (64, 3)
    again, common = tmp_path / "swa.safetensors", ["--data", image_folder, "--device", "cpu"]
    common += ["--workers", 0]
    assert run([str(one) for one in ("average", folder, *common, "-o", again)]) == 0
    assert again.read_bytes() == (folder / "swa.safetensors").read_bytes()


def test_an_average_without_validation_images_is_recomputed_and_not_scored(
    call, small, image_folder, tmp_path
):
    images = tmp_path / "images"
    shutil.copytree(image_folder / "train", images / "train")
    arguments = [*small, "--data", images, "--validate-every", "never"]
    printed = call(*arguments, "--then-average", "-o", tmp_path / "run")
    assert read_metadata(tmp_path / "run" / "swa.safetensors").bn.state == "updated"
    assert "the average of 2 checkpoints, BatchNorm recomputed" in printed.out
    assert "not scored" in printed.err
    output = tmp_path / "swa.safetensors"
    arguments = ["--train-dir", images / "train", "--workers", 0, "-o", output]
    assert run([str(one) for one in ("average", tmp_path / "run", *arguments)]) == 0
    assert read_metadata(output).bn.state == "updated"


@pytest.mark.parametrize("how", ["--then-average", "--swa-online"])
def test_the_start_counts_in_the_average_if_asked_for(call, small, tmp_path, how):
    call(*small, how, "--include-init", "-o", tmp_path / "run")
    average = read_metadata(tmp_path / "run" / "swa.safetensors").average
    assert average.include_init
    names = [source.name for source in average.sources]
    assert names == ["start.safetensors", "cycle-001.safetensors", "cycle-002.safetensors"]
    assert "--include-init needs an average" in call(*small, "--include-init", status=2).err


def test_what_cannot_be_averaged_afterwards_is_refused_before_the_training(call, small, tmp_path):
    arguments = [one for one in small if one != "--new-head"] + ["--synthetic-data", 8]
    found = call(*arguments, "--then-average", "-o", tmp_path / "run", status=1)
    assert "--then-average needs images" in found.err
