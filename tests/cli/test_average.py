import json
import shutil

import numpy as np
import pytest

from swa_tools.checkpoints import open_checkpoint, read_metadata, write_checkpoint
from swa_tools.cli import run
from swa_tools.evaluation import evaluate
from swa_tools.records import read_records


@pytest.fixture
def call(capsys):
    def invoke(*arguments, status=0):
        assert run(["average", *map(str, arguments)]) == status
        return capsys.readouterr()

    return invoke


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    paths = []
    for k in range(1, 5):
        arrays = {
            "weight": generator.normal(size=(4, 5)).astype(np.float32),
            "bn.running_mean": generator.normal(size=4).astype(np.float32),
            "bn.num_batches_tracked": np.array(k),
        }
        paths.append(tmp_path / f"epoch-{k * 5}.safetensors")
        write_checkpoint(paths[-1], arrays, None)
    return paths


def weight(path):
    with open_checkpoint(path) as checkpoint:
        return checkpoint.read("weight").astype(np.float64)


def test_a_glob_is_averaged_in_natural_order(call, files, tmp_path):
    output = tmp_path / "average.safetensors"
    printed = call(tmp_path / "epoch-*.safetensors", "-o", output).out
    np.testing.assert_allclose(weight(output), np.mean([weight(f) for f in files], 0), rtol=1e-6)
    metadata = read_metadata(output)
    assert [source.name for source in metadata.average.sources] == [f.name for f in files]
    assert metadata.bn.state == "stale"
    assert "update-bn" in printed


def test_what_is_there_twice_counts_once_and_is_named(call, files, tmp_path):
    last = tmp_path / "last.safetensors"
    shutil.copy(files[-1], last)
    output = tmp_path / "out.safetensors"
    notices = call(*files, last, files[0], "-o", output).err
    assert len(read_metadata(output).average.sources) == 4
    assert notices.count("counted once") == 2
    assert str(last) in notices
    message = call(*files, last, "--weights", "1,1,1,1,1", "-o", output, "--force", status=1).err
    assert "the same weights as" in message


@pytest.mark.parametrize(
    ("options", "coefficients"),
    [
        (["--weights", "1,2,0,1"], [0.25, 0.5, 0, 0.25]),
        (["--ema", "0.5"], [0.125, 0.125, 0.25, 0.5]),
        (["--last", "2", "--interpolate", "0.25"], [0, 0, 0.75, 0.25]),
        (["--every", "2", "--weights", "3,1"], [0, 0.75, 0, 0.25]),
    ],
)
def test_weightings(call, files, tmp_path, options, coefficients):
    output = tmp_path / "out.safetensors"
    call(*files, *options, "-o", output)
    expected = sum(c * weight(f) for c, f in zip(coefficients, files, strict=True))
    np.testing.assert_allclose(weight(output), expected, rtol=1e-5, atol=1e-7)


def test_plan_says_what_would_be_done_and_writes_nothing(call, files, tmp_path):
    before = sorted(tmp_path.iterdir())
    document = json.loads(call(*files, "--plan", "--json").out)
    assert [entry["weight"] for entry in document["checkpoints"]] == [0.25] * 4
    assert document["tensors"] == {"average": 2, "last": 1, "equal": 0}
    assert document["bytes_read"] == 4 * document["bytes_written"] == 4 * (80 + 16 + 8)
    assert "2 tensors averaged" in call(*files, "--plan").out
    write_checkpoint(tmp_path / "other.safetensors", {"weight": np.zeros(3)}, None)
    assert "lacks 'bn." in call(*files, tmp_path / "other.safetensors", "--plan", status=1).err
    (tmp_path / "other.safetensors").unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_json_is_one_document(call, files, tmp_path):
    output = tmp_path / "out.safetensors"
    document = json.loads(call(*files, "-o", output, "--json").out)
    assert document["path"] == str(output)
    assert document["n_averaged"] == 2
    assert document["metadata"]["average"]["weighting"] == "uniform"


def test_an_output_is_replaced_only_by_force_and_never_a_source(call, files, tmp_path):
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"precious")
    assert "--force" in call(*files, "-o", output, status=1).err
    assert "--force" in call(*files, "-o", output, "--plan", status=1).err
    assert output.read_bytes() == b"precious"
    call(*files, "-o", output, "--force")
    source = files[1].read_bytes()
    message = call(*files, "-o", files[1], "--force", status=1).err
    assert "one of the checkpoints to average" in message
    assert files[1].read_bytes() == source


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.safetensors", "-o", "x.safetensors"], 1, "no such file"),
        (["nothing-*.pth", "-o", "x.safetensors"], 1, "no file matches"),
        (["empty", "-o", "x.safetensors"], 1, "no checkpoints in this folder"),
        (["{files}", "-o", "x.npz"], 1, "the name of an output says its format"),
        (["{files}", "-o", "no/such/folder/x.safetensors"], 1, "there is no folder"),
        (["{files}", "--last", "9", "-o", "x.safetensors"], 1, "only 4"),
        (["{files}", "--weights", "1,2", "-o", "x.safetensors"], 1, "expected one for each"),
        (["{files}", "--weights", "1,2,3,-1", "-o", "x.safetensors"], 1, "--allow-negative"),
        (["{files}", "--include-init", "-o", "x.safetensors"], 1, "not the captures of one run"),
        (["{files}", "--top", "2", "--metric", "top1", "-o", "x"], 1, "no metric 'top1'"),
        (["{files}", "--entry", "ema", "-o", "x.safetensors"], 1, "one set of weights"),
        (["{files}"], 2, "--output"),
        (["{files}", "--weights", "1,x", "-o", "x"], 2, "separated by commas"),
        (["{files}", "--ema", "0.9", "--interpolate", "1", "-o", "x"], 2, "one of"),
        (["-o", "x.safetensors"], 2, "CHECKPOINT"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    call, files, tmp_path, monkeypatch, arguments, status, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    given = [f for a in arguments for f in (files if a == "{files}" else [a])]
    error = call(*given, status=status).err
    assert message in error
    assert "Traceback" not in error
    assert status == 2 or error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory, image_folder, tiny_model):
    """A run of two short cycles on the small images."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = ["--no-pretrained", "--new-head", "--image-size", "32", "--epochs", "2"]
    options += ["--batch-size", "6", "--lr-max", "0.1", "--workers", "0", "--device", "cpu"]
    arguments = ["finetune", tiny_model, "--data", image_folder, "-o", folder, *options]
    assert run([str(argument) for argument in arguments]) == 0
    return folder


def test_with_images_the_average_is_recomputed_and_scored(call, trained, image_folder, tmp_path):
    from swa_tools.data import PassOptions, evaluation_loader, map_to_outputs, open_images
    from swa_tools.models import load_checkpoint

    output = tmp_path / "swa.safetensors"
    common = ["--data", image_folder, "--workers", "0", "--device", "cpu", "--batch-size", "7"]
    document = json.loads(call(trained, *common, "-o", output, "--json").out)
    built, metadata = load_checkpoint(output)
    assert metadata.bn.state == "updated"
    assert metadata.bn.n_samples == 24
    assert len(metadata.average.sources) == document["n_sources"] == 2

    call(trained, "-o", tmp_path / "stale.safetensors")
    update = ["update-bn", tmp_path / "stale.safetensors", "-o", tmp_path / "two-steps", *common]
    assert run([str(argument) for argument in update]) == 0
    with open_checkpoint(output) as one, open_checkpoint(tmp_path / "two-steps") as other:
        assert one.digest() == other.digest()

    val = map_to_outputs(open_images(image_folder / "val"), built.info)
    loader = evaluation_loader(
        val,
        built.preprocessing,
        options=PassOptions(device="cpu", batch_size=5, workers=0, channels_last=False),
    )
    score = evaluate({"swa": built.module}, loader).scores["swa"]
    assert document["n_correct"] == score.n_correct
    record = list(read_records(trained / "results.jsonl"))[-1]
    assert (record.checkpoint, record.kind, record.top1) == (output.name, "average", score.top1)


def test_the_starting_point_counts_once_if_asked_for(call, trained, tmp_path):
    output = tmp_path / "swa.safetensors"
    call(trained, "--include-init", "-o", output)
    average = read_metadata(output).average
    assert average.include_init
    assert [source.name for source in average.sources] == [
        "start.safetensors",
        "cycle-001.safetensors",
        "cycle-002.safetensors",
    ]
