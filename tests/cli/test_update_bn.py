import dataclasses
import json

import pytest
import torch

from swa_tools.checkpoints import read_metadata
from swa_tools.cli import run
from swa_tools.models import create_model


@pytest.fixture(scope="module")
def average(tmp_path_factory, tiny_checkpoint):
    path = tmp_path_factory.mktemp("averages") / "average.safetensors"
    return tiny_checkpoint(path, kind="average", bn="stale")


@pytest.fixture
def update_bn(image_folder, tmp_path, capsys):
    def call(*arguments, status=0):
        common = ["--data", image_folder, "--device", "cpu", "--workers", "0"]
        output = ["-o", tmp_path / "swa.safetensors"]
        assert run(["update-bn", *map(str, (*arguments, *common, *output))]) == status
        return capsys.readouterr()

    return call


def test_the_output_says_how_its_statistics_were_measured(average, update_bn, tmp_path):
    printed = update_bn(average, "--batch-size", "8").out
    assert "BatchNorm layers, measured on 24 images (random crops, 32 px) in 3 batches" in printed
    bn = read_metadata(tmp_path / "swa.safetensors").bn
    assert (bn.state, bn.estimator, bn.n_samples) == ("updated", "population", 24)
    assert (bn.batch_size, bn.view.crop, bn.view.min_area) == (8, "random-resized", 0.08)


def test_what_the_authors_do_can_be_asked_for(average, update_bn, tmp_path):
    recipe = ["--estimator", "sample-weighted", "--train-mode"]
    found = update_bn(average, *recipe, "--samples", "9", "--seed", "4", "--json")
    document = json.loads(found.out)
    bn = read_metadata(tmp_path / "swa.safetensors").bn
    assert document["bn"] == dataclasses.asdict(bn)
    assert (bn.estimator, bn.train_mode, bn.n_samples) == ("sample-weighted", True, 9)
    assert document["n_layers"] > 0
    assert document["unsupported"] == []


@pytest.mark.parametrize("option", ["--view=evaluation", "--no-augment"])
def test_images_as_they_are_scored_can_be_asked_for(average, update_bn, tmp_path, option):
    printed = update_bn(average, option, "--batch-size", "64")
    assert "24 images (as in evaluation)" in printed.out
    assert printed.err == ""
    assert read_metadata(tmp_path / "swa.safetensors").bn.view.crop == "evaluation"


def test_what_is_not_known_of_the_training_is_said(average, update_bn):
    assert "--view evaluation" in update_bn(average).err


def test_a_model_without_batchnorm_is_told_so(update_bn, tmp_path):
    built = create_model("timm/test_vit", num_classes=3)
    path = tmp_path / "vit.pth"
    torch.save(built.module.state_dict(), path)
    found = update_bn(path, "--model", "timm/test_vit")
    assert "there are no BatchNorm statistics to recompute: the images were not read" in found.err
    assert read_metadata(tmp_path / "swa.safetensors").bn.state == "none"


def test_a_second_run_needs_force(average, update_bn):
    update_bn(average)
    found = update_bn(average, status=1)
    assert found.err.startswith("Error: ")
    assert "--force" in found.err
    update_bn(average, "--force")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.safetensors"], "missing.safetensors"),
        (["AVERAGE", "--train-dir", "nowhere"], "nowhere: cannot read this folder"),
    ],
)
def test_errors_are_one_line_with_status_1(average, update_bn, tmp_path, arguments, message):
    found = update_bn(*(average if one == "AVERAGE" else one for one in arguments), status=1)
    assert found.err.startswith("Error: ")
    assert message in found.err
    assert found.err.count("\n") == 1
    assert not (tmp_path / "swa.safetensors").exists()
