"""The main job on real photographs, with real weights, and the files in the hands of others."""

import json

import pytest
import torch
from PIL import Image

from swa_tools.cli import run

pytestmark = pytest.mark.real_data


@pytest.fixture
def call(capsys):
    def invoke(*arguments):
        assert run([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return invoke


def plain_count(model, transform, folder, *, outputs):
    """Count right answers with a loop that has nothing of ours in it."""
    n_correct = 0
    model.eval()
    for output, class_folder in zip(outputs, sorted(folder.iterdir()), strict=True):
        paths = sorted(class_folder.iterdir())
        for first in range(0, len(paths), 50):
            images = [Image.open(path).convert("RGB") for path in paths[first : first + 50]]
            with torch.no_grad():
                predictions = model(torch.stack([transform(image) for image in images])).argmax(1)
            n_correct += int((predictions == output).sum())
    return n_correct


def some_of(folder, part):
    """Make a folder with all of the training images, and with every other validation image."""
    part.mkdir()
    (part / "train").symlink_to(folder / "train")
    for class_folder in (folder / "val").iterdir():
        (part / "val" / class_folder.name).mkdir(parents=True)
        for path in sorted(class_folder.iterdir())[::2]:
            (part / "val" / class_folder.name / path.name).symlink_to(path)
    return part


def test_an_average_of_a_short_run_scores_the_same_in_timm_alone(real_data, call, tmp_path):
    import timm
    from safetensors.torch import load_file

    images = some_of(real_data / "imagenette", tmp_path / "imagenette")
    weights = real_data / "weights" / "mobilenetv2_050-imagenette-e15.safetensors"
    options = ["--epochs", "0.25", "--cycle-epochs", "0.125", "--batch-size", "125"]
    options += ["--lr-max", "0.02", "--image-size", "96", "--validate-every", "never"]
    call(
        *("finetune", "timm/mobilenetv2_050", "--checkpoint", weights, "--data", images),
        *("-o", tmp_path / "run", *options),
    )
    output = tmp_path / "swa.safetensors"
    common = ("--data", images, "--samples", "500")
    document = json.loads(call("average", tmp_path / "run", *common, "-o", output, "--json"))

    model = timm.create_model("mobilenetv2_050", num_classes=10)
    model.load_state_dict(load_file(output), strict=True)
    config = {
        **timm.data.resolve_model_data_config(model),
        "input_size": (3, 96, 96),
    }
    transform = timm.data.create_transform(**config, is_training=False)
    expected = plain_count(model, transform, images / "val", outputs=range(10))
    assert document["n_correct"] == expected
    assert document["top1"] == pytest.approx(100 * expected / 500)
    assert document["top1"] > 55
