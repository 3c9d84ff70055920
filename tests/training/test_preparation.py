import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from swa_tools.checkpoints import (
    BnInfo,
    CheckpointMetadata,
    ModelInfo,
    content_digest,
    read_metadata,
)
from swa_tools.distributed import single_process
from swa_tools.errors import DataError, ModelError, OutputError, TrainingError
from swa_tools.models import create_model, load_state_dict, save_state_dict
from swa_tools.records import read_records
from swa_tools.training.description import Caller
from swa_tools.training.loop import finetune
from swa_tools.training.options import OptimizerOptions
from swa_tools.training.preparation import open_run, preview
from swa_tools.training.progress import RunListener
from swa_tools.training.resume import load_resume_point
from swa_tools.training.schedule_options import ScheduleOptions

CPU = single_process("cpu")


@pytest.fixture(scope="module")
def half_done(image_folder, tmp_path_factory):
    """A run of conventional SGD that was stopped at 2 of 4 epochs."""
    from swa_tools.training.options import FinetuneOptions

    options = FinetuneOptions(
        model="timm/test_efficientnet",
        pretrained=False,
        new_head=True,
        image_size=32,
        data=image_folder,
        workers=0,
        device="cpu",
        batch_size=4,
        epochs=2,
        schedule=ScheduleOptions(schedule="anneal", lr_max=0.01, budget_epochs=4),
        output=tmp_path_factory.mktemp("half") / "run",
    )
    return finetune(options).run


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_read(options, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(OutputError, match="not empty.*--resume.*--force"):
        finetune(options(data=tmp_path / "missing"))


def test_force_replaces_a_run_and_leaves_other_files(options, half_done, tmp_path):
    first = finetune(options(epochs=3))
    (first.run / "notes.txt").touch()
    finetune(options(epochs=1, force=True))
    assert [path.name for path in (first.run / "checkpoints").iterdir()] == [
        "cycle-001.safetensors"
    ]
    assert (first.run / "notes.txt").exists()


def test_force_removes_nothing_when_the_new_run_cannot_start(options, files):
    first = finetune(options(epochs=1))
    before = files(first.run)
    for wrong in (
        {"schedule": ScheduleOptions(schedule="multistep")},
        {"model": "timm/test_efficientnet_gn", "model_kwargs": {"no_such": 1}},
        {"validate_every": "sometimes"},
        {"sync_bn": True},
    ):
        with pytest.raises((TrainingError, ModelError)):
            finetune(options(force=True, **wrong))
    assert files(first.run) == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": None}, TrainingError, "no model: name one"),
        ({"model": "timm/test_eficientnet"}, ModelError, "did you mean timm/test_efficientnet"),
        ({"new_head": False}, DataError, "--new-head"),
        (
            {"epochs": 0.01},
            TrainingError,
            "--epochs 0.01: less than one step, an epoch has 6 steps",
        ),
        ({"accumulate": 9}, TrainingError, "--accumulate 9: expected from 1 to 4 pieces"),
        ({"resume_every": "0steps"}, TrainingError, "--resume-every 0steps: expected"),
        ({"validate_every": "5min"}, TrainingError, "--validate-every 5min: expected"),
        ({"sync_bn": True}, TrainingError, "--sync-bn needs several processes"),
        ({"keep_checkpoints": 0}, TrainingError, "give --swa-online, too"),
        ({"resume": True}, TrainingError, "there is no run to resume"),
        ({"epochs": float("nan")}, TrainingError, "--epochs nan: expected a finite number"),
        ({"epochs": float("inf")}, TrainingError, "--epochs inf: expected a finite number"),
        (
            {"optimizer": OptimizerOptions(optimizer="adamw", nesterov=True)},
            TrainingError,
            "--nesterov does not apply to --optimizer adamw",
        ),
        (
            {"optimizer": OptimizerOptions(momentum=0, nesterov=True)},
            TrainingError,
            "--nesterov needs a --momentum above 0",
        ),
        ({"drop_path": 0.1, "model": "torchvision/resnet18"}, ModelError, "stochastic_depth_prob"),
    ],
)
def test_a_run_that_cannot_start_says_why_and_writes_nothing(
    options, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message):
        finetune(options(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "timm/test_resnet"}, "model was timm/test_efficientnet, is now timm/test_res"),
        ({"batch_size": 2}, "steps per epoch was 6, is now 12"),
        ({"schedule": ScheduleOptions(lr_max=0.5)}, "schedule lr_max was 0.001, is now 0.5"),
        (
            {"schedule": ScheduleOptions(schedule="constant")},
            "schedule name was sawtooth, is now const",
        ),
        ({"optimizer": OptimizerOptions(momentum=0.5)}, "momentum was 0.9, is now 0.5"),
        ({"ema": 0.9}, "ema was not set, is now 0.9"),
    ],
)
def test_resuming_as_another_run_is_refused_and_names_what_differs(options, changes, named, files):
    run = finetune(options(epochs=1)).run
    before = files(run)
    with pytest.raises(TrainingError) as raised:
        finetune(options(resume=True, **changes))
    assert named in str(raised.value)
    assert files(run) == before


def test_resuming_with_another_data_set_is_refused(options, image_folder, tmp_path):
    finetune(options(epochs=1))
    other = tmp_path / "images"
    shutil.copytree(image_folder, other, ignore=shutil.ignore_patterns("7.JPEG"))
    with pytest.raises(TrainingError, match="training images was 24, is now 21"):
        finetune(options(data=other, resume=True))


def test_a_finished_run_is_resumed_to_nothing_and_a_longer_one_goes_on(options, files, tmp_path):
    run = finetune(options(epochs=1)).run
    before = files(run)
    assert finetune(options(epochs=1, resume=True)).resumed_step == 6
    assert files(run) == before
    longer = finetune(options(epochs=2, resume=True))
    whole = finetune(options(epochs=2, output=tmp_path / "whole"))
    assert (longer.run / "checkpoints/cycle-002.safetensors").read_bytes() == (
        whole.run / "checkpoints/cycle-002.safetensors"
    ).read_bytes()


def test_a_run_that_was_killed_before_its_first_step_begins_again(options, files, tmp_path):
    whole = finetune(options(output=tmp_path / "whole"))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    assert files(finetune(options(resume_if_exists=True)).run) == files(whole.run)


def test_a_run_whose_resume_point_is_lost_is_not_overwritten(options):
    run = finetune(options()).run
    (run / "resume.pt").unlink()
    with pytest.raises(TrainingError, match="there is no point to resume from, but the run has"):
        finetune(options(resume=True))


def test_metrics_that_were_shortened_are_noticed(options):
    run = finetune(options()).run
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(TrainingError, match="restore the file"):
        finetune(options(resume=True))


def test_a_run_from_another_takes_its_last_weights_and_optimizer(options, half_done):
    point = load_resume_point(half_done / "resume.pt")
    changes = {"model": None, "new_head": False, "image_size": None, "from_run": half_done}
    run = open_run(options(**changes), context=CPU, listener=RunListener(), caller=Caller())
    for name, tensor in run.network.module.state_dict().items():
        assert torch.equal(tensor, point.model[name])
    state = run.network.stepper.optimizer.state_dict()["state"]
    for number, buffers in point.optimizer["state"].items():
        assert torch.equal(state[number]["momentum_buffer"], buffers["momentum_buffer"])
    assert run.step == 0
    assert load_state_dict(run.directory.start).keys() == point.model.keys()


def test_a_run_from_another_remembers_it_also_when_it_is_resumed(options, half_done):
    changes = {"model": None, "new_head": False, "image_size": None, "from_run": half_done}
    point = load_resume_point(half_done / "resume.pt")
    run = finetune(options(epochs=1, **changes)).run
    earlier = json.loads((run / "run.json").read_text())["earlier"]
    assert earlier["n_epochs"] == point.step / point.settings["steps per epoch"]
    assert earlier["start_digest"] == content_digest(half_done / "start.safetensors")
    assert earlier["options"] == json.loads((half_done / "run.json").read_text())["options"]
    finetune(options(epochs=2, resume=True, **changes))
    assert json.loads((run / "run.json").read_text())["earlier"] == earlier


def test_a_run_from_another_has_its_own_hyperparameters(options, half_done):
    changes = {"model": None, "new_head": False, "from_run": half_done, "image_size": 48}
    own = OptimizerOptions(weight_decay=0.5, momentum=0.8, nesterov=True)
    run = open_run(
        options(optimizer=own, **changes), context=CPU, listener=RunListener(), caller=Caller()
    )
    (group,) = run.network.stepper.optimizer.param_groups
    assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (0.5, 0.8, True)
    assert run.start.built.preprocessing.image_size == 48


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new_head": True}, "its optimizer state belongs to its own classifier"),
        ({"checkpoint": Path("x")}, "leave out --checkpoint"),
        (
            {"optimizer": OptimizerOptions(optimizer="adamw")},
            "its optimizer was sgd, but is adamw",
        ),
        ({"model": "timm/test_resnet"}, "its metadata says model timm/test_efficientnet"),
        ({"from_run": Path("missing")}, "missing/resume.pt: there is no point to resume from"),
    ],
)
def test_a_run_that_cannot_be_continued_is_refused(options, half_done, changes, message):
    fields = {"model": None, "new_head": False, "image_size": None, "from_run": half_done}
    with pytest.raises((TrainingError, ModelError), match=message):
        finetune(options(**(fields | changes)))


def test_annealing_goes_on_where_the_other_run_stopped_it(options, half_done, tmp_path):
    rest = finetune(
        options(
            model=None,
            new_head=False,
            image_size=None,
            from_run=half_done,
            schedule=ScheduleOptions(schedule="anneal", lr_max=0.01, budget_epochs=4),
        )
    )
    rates = [r.lr for r in read_records(rest.run / "metrics.jsonl") if r.event == "step"]
    expected = [0.01 * (1 - 0.99 * (k / 24 - 0.5) / 0.4) for k in range(14, 22, 2)]
    assert rates[:4] == pytest.approx(expected)
    assert rates[-1] == pytest.approx(0.0001)


@pytest.mark.parametrize("schedule", ["anneal", "cosine", "multistep"])
def test_a_run_that_continues_an_annealing_is_resumed_by_the_same_command(
    options, half_done, files, tmp_path, schedule
):
    milestones = (3.0,) if schedule == "multistep" else None
    fields = {
        "model": None,
        "new_head": False,
        "image_size": None,
        "from_run": half_done,
        "schedule": ScheduleOptions(schedule=schedule, lr_max=0.01, milestones=milestones),
        "resume_if_exists": True,
    }
    whole = finetune(options(output=tmp_path / "whole", **fields))

    def stop(progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    finetune(options(**fields), listener=RunListener(on_progress=stop))
    result = finetune(options(**fields))
    assert result.resumed_step == 5
    assert files(result.run) == files(whole.run)


def test_the_start_of_an_annealing_is_found_again_with_another_batch_size(options, half_done):
    fields = {"model": None, "new_head": False, "image_size": None, "from_run": half_done}
    schedule = ScheduleOptions(schedule="cosine")
    # 12 of the earlier run's steps, 6 to an epoch, are 8 of these; 1.35 epochs are 5.4 steps.
    fields |= {"schedule": schedule, "batch_size": 6, "epochs": 1.35, "resume_if_exists": True}
    finetune(options(**fields))
    assert finetune(options(**fields)).resumed_step == 5


def test_a_run_from_another_sees_other_images_and_ends_as_one_long_run(options, tmp_path):
    fields = {"schedule": ScheduleOptions(schedule="constant", lr_max=0.01), "drop_path": 0.2}
    whole = finetune(options(epochs=4, output=tmp_path / "whole", **fields))
    first = finetune(options(epochs=1, output=tmp_path / "first", **fields))
    fields |= {"model": None, "new_head": False, "image_size": None, "drop_path": None}
    second = finetune(options(epochs=1.5, from_run=first.run, output=tmp_path / "second", **fields))
    third = finetune(options(epochs=1, from_run=second.run, resume_if_exists=True, **fields))
    settings = [load_resume_point(r.run / "resume.pt").settings for r in (first, second, third)]
    assert [s["epochs before"] for s in settings] == [None, 1, 3]
    same = load_state_dict(whole.captures[1])
    for name, tensor in load_state_dict(second.captures[0]).items():
        assert torch.equal(tensor, same[name]), name
    assert (
        finetune(
            options(epochs=1, from_run=second.run, resume_if_exists=True, **fields)
        ).resumed_step
        == 6
    )


def test_continuing_a_run_that_has_not_ended_is_told(options, half_done, tmp_path):
    def stop(progress):
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = finetune(options(output=tmp_path / "first"), listener=RunListener(on_progress=stop))
    fields = {"model": None, "new_head": False, "image_size": None, "epochs": 0.2}
    for earlier, told in ((stopped.run, True), (half_done, False)):
        notices = []
        finetune(
            options(from_run=earlier, output=tmp_path / f"{told}", **fields),
            listener=RunListener(on_notice=notices.append),
        )
        line = (
            f"--from {earlier}: that run has not ended; its last resume point is after step 3 of 12"
        )
        assert (line in notices) is told


def test_resuming_with_fewer_epochs_than_are_done_is_refused(options, files):
    run = finetune(options()).run
    before = files(run)
    message = "--epochs 1 is less than the 2 epochs .12 steps. that the run has already"
    with pytest.raises(TrainingError, match=message):
        finetune(options(epochs=1, resume=True))
    assert files(run) == before


def test_run_json_keeps_the_command_that_began_the_run_and_the_options_of_its_caller(options):
    caller = Caller(command="swa-tools finetune a", options={"then_average": True})
    run = finetune(options(epochs=1), caller=caller).run
    finetune(options(epochs=2, resume=True), caller=Caller(command="swa-tools finetune b"))
    document = json.loads((run / "run.json").read_text())
    assert document["command"] == "swa-tools finetune a"
    assert document["resolved"] == {"device": "cpu", "amp": "off"}
    finetune(options(epochs=1, force=True), caller=caller)
    assert json.loads((run / "run.json").read_text())["options"]["then_average"] is True


def test_a_run_without_a_capture_is_refused_where_captures_are_needed(options, tmp_path):
    for changes, flag in (({}, "--then-average"), ({"swa_online": True}, "--swa-online")):
        with pytest.raises(TrainingError, match=f"{flag}: a run of 3 steps completes no cycle"):
            finetune(options(epochs=0.5, **changes), caller=Caller(needs_captures=True))
    assert not (tmp_path / "run").exists()


def test_weights_on_disk_are_the_start_and_their_state_is_told(options, tmp_path):
    built = create_model("timm/test_efficientnet", num_classes=3)
    path = tmp_path / "weights.safetensors"
    metadata = CheckpointMetadata(
        kind="average",
        model=ModelInfo(name="timm/test_efficientnet", num_classes=3),
        bn=BnInfo(state="updated"),
        swa_tools="0",
    )
    save_state_dict(path, built.module.state_dict(), metadata)
    run = finetune(options(model=None, new_head=False, checkpoint=path)).run
    start = load_state_dict(run / "start.safetensors")
    for name, tensor in built.module.state_dict().items():
        assert torch.equal(start[name], tensor)
    assert read_metadata(run / "start.safetensors").bn.state == "updated"
    # The folders' names are noted, so that later commands need not guess.
    assert read_metadata(run / "start.safetensors").model.classes == ("blue", "green", "red")


def test_stochastic_depth_is_added_to_weights_on_disk(options, half_done):
    changes = {"model": None, "new_head": False, "image_size": None, "drop_path": 0.25}
    run = open_run(
        options(checkpoint=half_done / "start.safetensors", **changes),
        context=CPU,
        listener=RunListener(),
        caller=Caller(),
    )
    rates = {m.drop_prob for m in run.network.module.modules() if type(m).__name__ == "DropPath"}
    assert max(rates) > 0
    assert run.start.built.info.kwargs["drop_path_rate"] == 0.25


def test_synthetic_images_need_no_folder(options):
    result = finetune(options(data=None, new_head=False, synthetic_data=16, epochs=1, ema=0.9))
    assert result.step == 4
    assert result.images_per_second > 0


def test_validation_inside_the_cycles_and_of_the_moving_average(options):
    result = finetune(options(validate_every="0.5epochs", ema=0.5))
    scored = [r for r in read_records(result.run / "metrics.jsonl") if r.event == "evaluation"]
    assert [(r.step, r.kind, r.checkpoint) for r in scored] == [
        (0, "start", "start.safetensors"),
        (3, "checkpoint", None),
        (3, "ema", None),
        (6, "checkpoint", "cycle-001.safetensors"),
        (6, "ema", "cycle-001.safetensors"),
        (9, "checkpoint", None),
        (9, "ema", None),
        (12, "checkpoint", "cycle-002.safetensors"),
        (12, "ema", "cycle-002.safetensors"),
    ]
    assert {r.bn for r in scored if r.kind == "ema"} == {"stale"}
    assert read_metadata(result.run / "ema" / "cycle-001.safetensors").bn.state == "stale"


def test_an_incomplete_cycle_is_announced_and_not_captured(options):
    plans = []
    result = finetune(options(epochs=1.5), listener=RunListener(on_plan=plans.append))
    assert "cycle 2 is not completed: the run ends after 3 of its 6 steps" in (
        plans[0].incomplete_cycle
    )
    assert [path.name for path in result.captures] == ["cycle-001.safetensors"]


def test_a_preview_writes_and_downloads_nothing(options, tmp_path):
    plan, sizes = preview(options(pretrained=True), context=CPU, caller=Caller())
    built = create_model("timm/test_efficientnet", num_classes=3)
    n_bytes = sum(t.nbytes for t in built.module.state_dict().values())
    assert sizes.checkpoint_bytes == n_bytes
    assert plan.n_steps == 12
    assert not (tmp_path / "run").exists()


def test_run_json_repeats_the_run(options, half_done):
    repeated = json.loads((half_done / "run.json").read_text())["options"]
    assert repeated["schedule"] == "anneal"
    assert not {"output", "force", "resume", "resume_if_exists"} & repeated.keys()


def test_a_data_set_of_timm_is_trained_on_as_its_folder_is(options, tmp_path):
    whole = finetune(options(epochs=1, output=tmp_path / "whole"))
    with pytest.raises(DataError, match="give both"):
        finetune(options(dataset="torch/image_folder", data=None))
    run = finetune(options(epochs=1, dataset="torch/image_folder"))
    capture = "checkpoints/cycle-001.safetensors"
    assert load_state_dict(run.run / capture).keys() == load_state_dict(whole.run / capture).keys()
    for name, tensor in load_state_dict(run.run / capture).items():
        assert torch.equal(tensor, load_state_dict(whole.run / capture)[name])
