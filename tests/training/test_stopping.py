import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

from swa_tools.errors import OutputError, TrainingError
from swa_tools.records import read_records
from swa_tools.training.interrupts import stop_signals
from swa_tools.training.loop import finetune
from swa_tools.training.network import Stepper
from swa_tools.training.options import OptimizerOptions
from swa_tools.training.progress import RunListener
from swa_tools.training.resume import load_resume_point
from swa_tools.training.schedule_options import ScheduleOptions


def send(number, *, at_step):
    """A listener that sends this process a signal after a step."""

    def on_progress(progress):
        if progress.step == at_step:
            os.kill(os.getpid(), number)

    return RunListener(on_progress=on_progress)


def resumed(options, **changes):
    return finetune(options(resume=True, **changes))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_run_within_two_steps_with_a_point_to_resume_from(options, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    result = finetune(options(), listener=send(number, at_step=4))
    assert result.stopped_by == number
    assert result.step == load_resume_point(result.run / "resume.pt").step == 5
    assert [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    ] == handlers


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": OptimizerOptions(optimizer="adamw", no_decay_norm_bias=True, clip_grad=1)},
        {"swa_online": True, "swa_every": 1, "keep_checkpoints": 1, "accumulate": 2},
        {"schedule": ScheduleOptions(schedule="triangular"), "amp": "bf16"},
    ],
    ids=["sgd", "adamw", "online", "triangular"],
)
def test_a_stopped_and_resumed_run_ends_as_if_it_had_not_been(options, files, tmp_path, changes):
    whole = finetune(options(output=tmp_path / "whole", **changes))
    finetune(options(**changes), listener=send(signal.SIGTERM, at_step=2))
    finetune(options(resume=True, **changes), listener=send(signal.SIGUSR1, at_step=8))
    result = resumed(options, **changes)
    assert result.resumed_step == 9
    assert files(result.run) == files(whole.run)


def test_a_signal_in_a_validation_cuts_it_short_and_it_is_done_after_resuming(options, files):
    def on_record(record):
        if record.event == "epoch" and record.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    result = finetune(options(), listener=RunListener(on_record=on_record))
    assert result.stopped_by == signal.SIGTERM
    metrics = result.run / "metrics.jsonl"
    assert [r.step for r in read_records(metrics) if r.event == "evaluation"] == [0]
    resumed(options)
    assert [r.step for r in read_records(metrics) if r.event == "evaluation"] == [0, 6, 12]


def test_a_second_ctrl_c_interrupts_at_once():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_of_the_main_thread_no_handler_is_set():
    def run():
        with stop_signals() as stop:
            numbers.append(stop.number)

    numbers = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert numbers == [None]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_exit_status_tells_the_signal_and_the_last_line_how_to_go_on(
    nursery, recipe, tmp_path, wait_for_steps, number, status
):
    run = tmp_path / "run"
    process = nursery.start("finetune", *recipe, "--epochs", 500, "-o", run)
    wait_for_steps(run)
    process.kill(number)
    assert process.wait() == status
    last = process.output.splitlines()[-1]
    assert last.startswith(f"stopped by {number.name} after step ")
    assert last.endswith(f"swa-tools finetune --resume {run}")
    assert "Traceback" not in process.output


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(options):
    # The first epoch is harmless, the second is not.
    schedule = ScheduleOptions(
        schedule="multistep", lr_max=1e-4, milestones=(1.0,), gamma=1e30, cycle_epochs=1
    )
    with pytest.raises(TrainingError) as raised:
        finetune(options(schedule=schedule))
    assert "the training loss is not finite" in str(raised.value)
    assert "cycle-001.safetensors" in str(raised.value)
    step = int(str(raised.value).split()[1])
    assert 7 < step <= 12


def test_a_loss_that_is_not_finite_is_ignored_on_request(options):
    notices = []
    listener = RunListener(on_notice=notices.append)
    schedule = ScheduleOptions(schedule="constant", lr_max=1e30)
    result = finetune(options(schedule=schedule, allow_nonfinite=True, epochs=1), listener=listener)
    assert result.step == 6
    assert any("not validated" in notice for notice in notices)


def test_a_resume_point_is_saved_when_the_time_is_up(options, files, tmp_path):
    moments = []

    def on_progress(progress):
        moments.append(load_resume_point(tmp_path / "run" / "resume.pt").step)

    finetune(options(resume_every="0.000001min"), listener=RunListener(on_progress=on_progress))
    assert moments == list(range(12))


def test_a_full_disk_stops_the_run_with_one_line_and_it_goes_on_when_there_is_room(
    nursery, recipe, finished_run, files, tmp_path
):
    run = tmp_path / "run"
    # Between the size of a checkpoint and that of a resume point with the optimizer's state.
    process = nursery.start("finetune", *recipe, "-o", run, largest_file=600_000)
    assert process.wait() == 1
    last = process.output.splitlines()[-1]
    assert last.startswith(f"Error: {run}/resume.pt: cannot write it: ")
    assert last.endswith(f"--resume {run} continues from step 0")
    assert "Traceback" not in process.output
    assert not list(run.rglob("*.tmp"))
    status, output = nursery.run("finetune", "--resume", run)
    assert status == 0, output
    assert files(run) == files(finished_run)


def test_a_full_disk_as_records_are_written_says_how_to_go_on(options, monkeypatch, tmp_path):
    def append(path, records):
        raise OutputError(f"{path}: cannot write results: No space left on device")

    monkeypatch.setattr("swa_tools.run_directory.append_records", append)
    with pytest.raises(OutputError) as raised:
        finetune(options())
    run = tmp_path / "run"
    assert str(raised.value) == (
        f"{run}/metrics.jsonl: cannot write results: No space left on device;"
        f" --resume {run} continues from step 0"
    )


def test_sigusr1_as_the_run_is_set_up_ends_it_as_sigterm_does(
    nursery, finished_run, image_folder, tmp_path
):
    earlier = shutil.copytree(finished_run, tmp_path / "earlier")
    fifo = earlier / "run.json"  # to read it is to wait
    fifo.unlink()
    os.mkfifo(fifo)
    arguments = ("--from", earlier, "--data", image_folder, "--workers", 0, "--device", "cpu")
    process = nursery.start("finetune", *arguments, "-o", tmp_path / "run")
    with open(fifo, "wb"):  # returns when the process reads it
        process.kill(signal.SIGUSR1)
        assert process.wait() == 143
    assert "Traceback" not in process.output


def test_running_out_of_memory_says_what_to_try(options, monkeypatch):
    def take(self, images, targets, *, step, lr):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stepper, "take", take)
    with pytest.raises(TrainingError, match="out of memory on cpu with 2 images at once.*late 4,"):
        finetune(options(accumulate=2))


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_without_permission_is_one_line(options):
    with pytest.raises(OutputError, match="/sys/run: cannot write"):
        finetune(options(output=Path("/sys/run")))
