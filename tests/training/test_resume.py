import random
import resource
import signal
import time

import pytest
import torch

from swa_tools.distributed import single_process
from swa_tools.errors import OutputError, TrainingError
from swa_tools.training.resume import (
    ResumePoint,
    check_settings,
    describe_changes,
    environment,
    load_resume_point,
    save_resume_point,
)


def a_point(**changes):
    fields = {
        "step": 3,
        "settings": {"seed": 0},
        "environment": {"ranks": 1},
        "model": {"weight": torch.arange(6.0).reshape(2, 3).T},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        "scaler": {},
        "ema": None,
        "online": None,
        "validated_step": None,
        "metrics_bytes": 17,
        "window_losses": [0.1, 0.2],
        "epoch_loss": 0.3,
    }
    return ResumePoint(**(fields | changes))


def test_a_point_comes_back_as_it_was_saved_and_contiguous(tmp_path):
    save_resume_point(tmp_path / "resume.pt", a_point())
    found = load_resume_point(tmp_path / "resume.pt")
    assert found.model["weight"].is_contiguous()
    assert torch.equal(found.model["weight"], a_point().model["weight"])
    assert torch.equal(found.optimizer["state"][0]["momentum_buffer"], torch.ones(2))
    assert (found.step, found.window_losses, found.epoch_loss) == (3, [0.1, 0.2], 0.3)


def test_full_disk_is_one_clear_error_and_leaves_the_earlier_point(tmp_path, nursery):
    path = tmp_path / "resume.pt"
    save_resume_point(path, a_point())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="resume.pt: cannot write it: File too large"):
            save_resume_point(path, a_point(model={"weight": torch.zeros(1_000_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\3\4" + bytes(100)])
def test_a_damaged_point_is_a_clear_error(tmp_path, content):
    (tmp_path / "resume.pt").write_bytes(content)
    with pytest.raises(TrainingError, match="resume.pt: not a point to resume from"):
        load_resume_point(tmp_path / "resume.pt")


def test_a_truncated_point_is_a_clear_error(tmp_path):
    path = tmp_path / "resume.pt"
    save_resume_point(path, a_point())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TrainingError, match="not a point to resume from"):
        load_resume_point(path)


def test_other_settings_are_refused_and_every_difference_named(tmp_path):
    with pytest.raises(TrainingError) as raised:
        check_settings(
            {"seed": 0, "model": "timm/a", "schedule lr_max": 0.1},
            expected={"seed": 0, "model": "timm/b", "schedule gamma": 2},
            run=tmp_path,
        )
    assert "model was timm/a, is now timm/b" in str(raised.value)
    assert "schedule gamma was not set, is now 2" in str(raised.value)
    assert "schedule lr_max was 0.1, is now not set" in str(raised.value)
    assert "seed" not in str(raised.value)


def test_an_option_that_an_older_version_did_not_note_has_its_default(tmp_path):
    now = {"seed": 0, "include init": False, "min crop area": 0.08}
    check_settings({"seed": 0, "include init": None}, expected=now, run=tmp_path)
    with pytest.raises(TrainingError, match="include init was False, is now True;"):
        check_settings({"seed": 0}, expected=now | {"include init": True}, run=tmp_path)
    with pytest.raises(TrainingError, match="mixup was 0.2, is now not set"):
        check_settings(now | {"mixup": 0.2}, expected=now, run=tmp_path)


def test_another_environment_is_told_and_the_same_is_not(options):
    here = environment(single_process("cpu"), options())
    assert describe_changes(here, now=here) is None
    assert describe_changes({"ranks": 1}, now=here) is None  # of an older version
    message = describe_changes(here | {"ranks": 8}, now=here)
    assert message == "not bit for bit the same as an uninterrupted run: ranks 1, was 8"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"accumulate": 2}, "accumulate 2, was 1"),
        ({"amp": "bf16"}, "amp bfloat16, was off"),
        ({"amp": "auto"}, None),
        ({"channels_last": False}, "channels last False, was True"),
        ({"compile": True}, "compile True, was False"),
        ({"sync_bn": True}, "sync bn True, was False"),
    ],
)
def test_options_that_change_the_last_bits_are_told(options, changes, told):
    context = single_process("cpu")
    found = environment(context, options(amp="off"))
    message = describe_changes(found, now=environment(context, options(**changes)))
    assert message == (told and f"not bit for bit the same as an uninterrupted run: {told}")


def same_state(left, right):
    """Compare resume points but for their bytes: zip files hold no times, dicts keep order."""
    a, b = load_resume_point(left), load_resume_point(right)
    for name, tensor in a.model.items():
        assert torch.equal(tensor, b.model[name]), name
    for number, state in a.optimizer["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, b.optimizer["state"][number][name])
    assert (a.step, a.epoch_loss, a.metrics_bytes) == (b.step, b.epoch_loss, b.metrics_bytes)


EXTRAS = ("--ema", 0.9, "--drop-path", 0.2, "--validate-every", "4steps", "--workers", 1)


@pytest.mark.parametrize(("n_kills", "seed"), [(4, 0), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    nursery, recipe, files, tmp_path, n_kills, seed
):
    arguments = (*recipe, *EXTRAS, "--resume-every", "2steps", "--resume-if-exists", "-o")
    whole = tmp_path / "whole"
    status, output = nursery.run("finetune", *arguments, whole)
    assert status == 0, output

    moments = random.Random(seed)
    n_killed = n_runs = 0
    while n_killed < n_kills:
        n_runs += 1
        run, ended = tmp_path / f"killed-{n_runs}", False
        while not ended:
            process = nursery.start("finetune", *arguments, run)
            if n_killed < n_kills:
                time.sleep(moments.uniform(0, 1))
                process.kill()
            status = process.wait()
            ended = status == 0
            assert ended or status == -signal.SIGKILL, process.output
            n_killed += not ended
        assert files(run) == files(whole)
        same_state(run / "resume.pt", whole / "resume.pt")
