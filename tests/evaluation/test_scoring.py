import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from swa_tools.checkpoints import TrainingInfo
from swa_tools.data import open_images
from swa_tools.distributed import single_process
from swa_tools.errors import CheckpointError, SwaToolsError
from swa_tools.evaluation import EvaluationOptions, evaluate_checkpoints
from swa_tools.models import save_state_dict


@pytest.fixture(scope="module")
def folder(image_folder):
    """Twelve images in three classes."""
    return image_folder / "val"


@pytest.fixture
def captures(tmp_path, tiny_checkpoint):
    return [tiny_checkpoint(tmp_path / f"cycle-{i}.safetensors", cycle=i) for i in (1, 2, 3)]


def run(paths, folder, **options):
    options = {"workers": 0, "batch_size": 5, "channels_last": False, **options}
    return evaluate_checkpoints(
        paths,
        open_images(folder),
        options=EvaluationOptions(**options),
        context=single_process("cpu"),
    )


def top1_of_a_plain_loop(path, folder):
    """The library's own model and transform, one image at a time."""
    from timm import create_model as timm_model
    from timm.data import create_transform

    model = timm_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    config = model.pretrained_cfg
    transform = create_transform(
        32,
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
    )
    n_correct = 0
    for target, class_folder in enumerate(sorted(folder.iterdir())):
        for file in sorted(class_folder.iterdir()):
            with torch.no_grad():
                logits = model(transform(Image.open(file).convert("RGB"))[None])
            n_correct += int(logits.argmax() == target)
    return n_correct


def test_every_checkpoint_is_scored_as_by_a_plain_loop(captures, folder):
    result = run(captures, folder)
    assert [one.name for one in result.checkpoints] == [path.name for path in captures]
    for one in result.checkpoints:
        assert one.score.n_samples == 12
        assert one.score.n_correct == top1_of_a_plain_loop(one.path, folder)
        assert (one.kind, one.bn, one.real) == ("checkpoint", "trained", None)
    assert result.notices == ()
    assert result.n_skipped == 0


def test_counts_do_not_depend_on_the_workers(captures, folder):
    expected = run(captures, folder).evaluation.predictions
    found = run(captures, folder, workers=2, batch_size=7).evaluation.predictions
    for name, predictions in expected.items():
        np.testing.assert_array_equal(found[name], predictions)


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_scores_do_not_depend_on_how_many_models_are_in_memory(captures, folder, at_once):
    expected = [run([path], folder).checkpoints[0].score for path in captures]
    found = run(captures, folder, at_once=at_once, batch_size=2)
    for one, score in zip(found.checkpoints, expected, strict=True):
        assert one.score.n_correct == score.n_correct
        assert one.score.nll == pytest.approx(score.nll, rel=1e-5)


def test_files_with_the_same_tensors_count_once(captures, folder, tmp_path, tiny_checkpoint):
    link = tmp_path / "link.safetensors"
    link.symlink_to(captures[0])
    copy = tiny_checkpoint(tmp_path / "copy.safetensors", cycle=2, bn="unknown")
    result = run([*captures, link, copy], folder)
    assert len(result.checkpoints) == 3
    assert [notice.split(":")[0] for notice in result.notices] == [str(link), str(copy)]


def test_files_of_one_name_are_told_apart_by_their_folders(tiny_checkpoint, folder, tmp_path):
    paths = []
    for seed, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        paths.append(tiny_checkpoint(tmp_path / name / "best.safetensors", cycle=seed))
    assert [one.name for one in run(paths, folder).checkpoints] == [str(path) for path in paths]


def test_stale_statistics_are_refused_with_the_way_on(tiny_checkpoint, folder, tmp_path):
    path = tiny_checkpoint(tmp_path / "average.safetensors", cycle=0, bn="stale", kind="average")
    with pytest.raises(CheckpointError, match=r"stale.*swa-tools update-bn.*--allow-stale-bn"):
        run([path], folder)
    assert run([path], folder, allow_stale_bn=True).checkpoints[0].bn == "stale"


def test_a_file_of_another_tool_is_scored_with_a_warning(
    tiny_network, tiny_checkpoint, tiny_model, folder, tmp_path
):
    path = tmp_path / "theirs.pth"
    torch.save(tiny_network.module.state_dict(), path)
    options = {"model": tiny_model, "image_size": 32}
    result = run([path], folder, **options)
    assert result.checkpoints[0].bn == "unknown"
    assert "theirs.pth: weights from another tool" in result.notices[0]
    beside_ours = tiny_checkpoint(tmp_path / "ours.safetensors", cycle=1)
    assert len(run([path, beside_ours], folder).checkpoints) == 2


def test_checkpoints_of_other_models_are_refused(
    captures, tiny_network, tiny_checkpoint, folder, tmp_path
):
    info = dataclasses.replace(tiny_network.info, classes=("blue", "green", "rose"))
    other = tiny_checkpoint(tmp_path / "other.safetensors", cycle=8, model=info)
    with pytest.raises(
        CheckpointError, match=r"other\.safetensors: has another model than .*cycle-1"
    ):
        run([*captures, other], folder)
    preprocessing = dataclasses.replace(tiny_network.preprocessing, image_size=48)
    other = tiny_checkpoint(tmp_path / "48.safetensors", cycle=8, preprocessing=preprocessing)
    with pytest.raises(CheckpointError, match=r"48\.safetensors: has another preprocessing"):
        run([*captures, other], folder)


def test_the_ensemble_is_of_the_checkpoints_and_the_average_beside_it(
    captures, tiny_checkpoint, folder, tmp_path
):
    average = tiny_checkpoint(tmp_path / "swa.safetensors", cycle=4, bn="updated", kind="average")
    result = run([*captures, average], folder, ensemble=True)
    assert result.ensemble_name == "ensemble"
    assert result.evaluation.ensemble.n_samples == 12
    pairs = [(one.first, one.second) for one in result.evaluation.agreements]
    assert pairs[-1] == ("swa.safetensors", "ensemble")
    assert len(pairs) == 3
    with pytest.raises(SwaToolsError, match="at least two checkpoints"):
        run([captures[0], average], folder, ensemble=True)


def test_start_ema_and_control_are_no_members(captures, tiny_checkpoint, folder, tmp_path):
    run_directory = tmp_path / "run"
    for name in ("checkpoints", "ema"):
        (run_directory / name).mkdir(parents=True)
    (run_directory / "run.json").write_text("{}")
    start = tiny_checkpoint(run_directory / "start.safetensors", cycle=5)
    ema = tiny_checkpoint(run_directory / "ema" / "cycle-1.safetensors", cycle=6)
    training = TrainingInfo(epoch=9, step=9, lr=0.1, schedule={"name": "anneal"}, seed=0)
    control = tiny_checkpoint(tmp_path / "final.safetensors", cycle=7, training=training)
    result = run([start, ema, *captures, control], folder, ensemble=True)
    assert [one.kind for one in result.checkpoints] == ["start", "ema", *["checkpoint"] * 4]
    assert result.members == (str(captures[0]), *(path.name for path in captures[1:]))


def test_the_capture_of_another_run_is_no_member(captures, tiny_checkpoint, folder, tmp_path):
    """The usual control is one long cycle: its end is a capture, but of another run."""
    (tmp_path / "control").mkdir()
    training = TrainingInfo(epoch=9, step=9, cycle=1, lr=0.1, schedule={}, seed=0)
    control = tiny_checkpoint(
        tmp_path / "control" / "cycle-9.safetensors", cycle=7, training=training
    )
    result = run([control, *captures], folder, ensemble=True)
    assert result.members == tuple(path.name for path in captures)


def test_it_is_called_fge_only_for_captures_of_a_triangular_run(tiny_checkpoint, folder, tmp_path):
    paths = [
        tiny_checkpoint(tmp_path / f"{seed}.safetensors", cycle=seed, schedule="triangular")
        for seed in (1, 2)
    ]
    assert run(paths, folder, ensemble=True).ensemble_name == "FGE"
    paths.append(tiny_checkpoint(tmp_path / "3.safetensors", cycle=3, schedule="sawtooth"))
    assert run(paths, folder, ensemble=True).ensemble_name == "ensemble"


def test_records_say_what_was_scored_and_when_it_was_trained(captures, folder):
    result = run(captures, folder, ensemble=True)
    records = result.records(split="val", command="swa-tools evaluate run")
    assert [record.checkpoint for record in records] == [*(p.name for p in captures), "ensemble"]
    first, ensemble = records[0], records[-1]
    assert (first.event, first.kind, first.bn, first.split) == (
        "evaluation",
        "checkpoint",
        "trained",
        "val",
    )
    assert (first.epoch, first.step, first.cycle, first.lr) == (1, 7, 1, 1e-5)
    assert first.digest == result.checkpoints[0].digest
    assert first.top1 == result.checkpoints[0].score.top1
    assert ensemble.kind == "ensemble"
    assert ensemble.nll == result.evaluation.ensemble.nll


def test_saved_logits_are_used_instead_of_the_network(captures, folder, tmp_path, monkeypatch):
    logits = tmp_path / "logits"
    first = run(captures[:2], folder, save_logits=logits, ensemble=True)
    files = sorted(logits.iterdir())
    assert len(files) == 2
    tensors = safetensors.numpy.load_file(files[0])
    assert tensors["logits"].shape == (12, 3)
    assert tensors["logits"].dtype == np.float32
    np.testing.assert_array_equal(tensors["targets"], first.images.targets)
    predictions = first.evaluation.predictions[captures[0].name]
    np.testing.assert_array_equal(tensors["logits"].argmax(1), predictions)
    # A third checkpoint: the two are read, one is run.
    run(captures, folder, save_logits=logits)
    assert len(list(logits.iterdir())) == 3
    monkeypatch.setattr("swa_tools.evaluation.ModelBank.module_of", None)
    monkeypatch.setattr("swa_tools.data.Loader.__iter__", None)
    again = run(captures[:2], folder, save_logits=logits, ensemble=True, batch_size=3)
    for name, score in first.evaluation.scores.items():
        found = again.evaluation.scores[name]
        assert found.n_correct == score.n_correct
        assert found.nll == pytest.approx(score.nll, rel=1e-12)
    assert again.evaluation.ensemble.n_correct == first.evaluation.ensemble.n_correct


def test_saved_logits_of_other_images_or_weights_are_not_used(
    captures, tiny_checkpoint, folder, tmp_path
):
    logits = tmp_path / "logits"
    run(captures[:1], folder, save_logits=logits)
    captures[0].unlink()
    tiny_checkpoint(captures[0], cycle=9)
    run(captures[:1], folder, save_logits=logits)
    run(captures[:1], folder, save_logits=logits, image_size=48)
    assert len(list(logits.iterdir())) == 3


def test_saved_logits_that_are_something_else_are_an_error(captures, folder, tmp_path):
    logits = tmp_path / "logits"
    run(captures[:1], folder, save_logits=logits)
    (file,) = logits.iterdir()
    safetensors.numpy.save_file({"logits": np.zeros((2, 3), np.float32)}, file)
    with pytest.raises(CheckpointError, match="expected saved logits of 12 images"):
        run(captures[:1], folder, save_logits=logits)
    with pytest.raises(SwaToolsError, match="leave out --skip-bad-images"):
        run(captures[:1], folder, save_logits=logits, skip_bad_images=True)


def test_a_pass_that_fails_leaves_no_logits(captures, tiny_network, folder, tmp_path):
    logits = tmp_path / "logits"
    broken = tmp_path / "broken.safetensors"
    state_dict = {k: v.float() * torch.nan for k, v in tiny_network.module.state_dict().items()}
    save_state_dict(broken, state_dict, None)
    with pytest.raises(SwaToolsError, match=r"broken\.safetensors: its logits"):
        run([*captures, broken], folder, save_logits=logits)
    assert list(logits.iterdir()) == []


def test_unreadable_images_are_counted(captures, folder, tmp_path):
    import shutil

    copy = tmp_path / "images"
    shutil.copytree(folder, copy)
    (copy / "blue" / "broken.png").write_bytes(b"no image")
    with pytest.raises(SwaToolsError, match=r"broken\.png"):
        run(captures, copy)
    result = run(captures, copy, skip_bad_images=True, ensemble=True)
    assert result.n_skipped == 1
    assert result.checkpoints[0].score.n_samples == 12
    expected = run(captures, folder)
    assert result.checkpoints[0].score.n_correct == expected.checkpoints[0].score.n_correct


def score_on_ranks(context):
    """The arguments come from the environment: torchrun hands it on."""
    import os
    from pathlib import Path

    images, logits, *paths = json.loads(os.environ["SCORE_ON_RANKS"])
    options = EvaluationOptions(
        workers=0, batch_size=5, channels_last=False, save_logits=Path(logits)
    )
    paths = [Path(path) for path in paths]
    result = evaluate_checkpoints(
        paths, open_images(Path(images)), options=options, context=context
    )
    return [one.score.n_correct for one in result.checkpoints]


def test_two_ranks_score_and_save_as_one_does(captures, folder, tmp_path, on_ranks, monkeypatch):
    arguments = [folder, tmp_path / "two", *captures[:2]]
    monkeypatch.setenv("SCORE_ON_RANKS", json.dumps([str(argument) for argument in arguments]))
    found = on_ranks(score_on_ranks)
    expected = run(captures[:2], folder, save_logits=tmp_path / "one")
    n_correct = [one.score.n_correct for one in expected.checkpoints]
    assert found == [n_correct, n_correct]
    for one, two in zip(
        sorted((tmp_path / "one").iterdir()), sorted((tmp_path / "two").iterdir()), strict=True
    ):
        assert one.name == two.name
        one_logits, two_logits = map(safetensors.numpy.load_file, (one, two))
        np.testing.assert_allclose(one_logits["logits"], two_logits["logits"], rtol=1e-5, atol=1e-5)
