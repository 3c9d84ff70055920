"""Several ranks on gloo, forked with the environment that torchrun gives."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from swa_tools.checkpoints import read_metadata
from swa_tools.models import load_state_dict
from swa_tools.records import read_records
from swa_tools.training.resume import load_resume_point


@pytest.fixture(scope="module")
def without_bn(recipe):
    """The small run with GroupNorm, whose numbers do not depend on who computes which image."""
    changes = ("--lr-max", 0.005, "--label-smoothing", 0.1)  # the loss stays away from 0
    return ("timm/test_efficientnet_gn", *recipe[1:], *changes)


@pytest.fixture(scope="module")
def alone(nursery, without_bn, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    status, output = nursery.run("finetune", *without_bn, "-o", run)
    assert status == 0, output
    return run


def assert_close(run, other):
    for number in (1, 2, 3):
        name = f"checkpoints/cycle-00{number}.safetensors"
        expected = load_state_dict(other / name)
        for key, tensor in load_state_dict(run / name).items():
            # Sums in another order; the difference grows from step to step.
            difference = torch.linalg.vector_norm((tensor - expected[key]).double())
            assert difference <= 1e-3 * torch.linalg.vector_norm(expected[key].double()), key


def test_two_ranks_train_as_one_does_and_rank_0_writes(nursery, without_bn, alone, tmp_path):
    run = tmp_path / "run"
    (status, output), (other_status, other_output) = nursery.run_ranks(
        "finetune", *without_bn, "-o", run
    )
    assert (status, other_status) == (0, 0), output + other_output
    assert_close(run, alone)
    assert "cycle-003.safetensors" in output
    assert other_output == ""
    ours = list(read_records(run / "metrics.jsonl"))
    theirs = list(read_records(alone / "metrics.jsonl"))
    assert [(r.event, r.step, r.n_samples) for r in ours] == [
        (r.event, r.step, r.n_samples) for r in theirs
    ]
    assert [r.train_loss for r in ours if r.event == "epoch"] == pytest.approx(
        [r.train_loss for r in theirs if r.event == "epoch"], rel=1e-3
    )


def test_a_batch_in_pieces_is_the_same_step(nursery, without_bn, alone, tmp_path):
    run = tmp_path / "run"
    status, output = nursery.run("finetune", *without_bn, "--accumulate", 4, "-o", run)
    assert status == 0, output
    assert_close(run, alone)


def test_pieces_and_ranks_go_together(nursery, without_bn, alone, tmp_path):
    results = nursery.run_ranks("finetune", *without_bn, "--accumulate", 2, "-o", tmp_path / "run")
    assert [status for status, _ in results] == [0, 0], results
    assert_close(tmp_path / "run", alone)


def test_two_ranks_stop_together_and_one_goes_on(
    nursery, without_bn, alone, tmp_path, wait_for_steps
):
    run = tmp_path / "run"
    arguments = (*without_bn, "--epochs", 2000, "-o", run)
    first, second = nursery.start_ranks("finetune", *arguments)
    wait_for_steps(run)
    second.kill(signal.SIGTERM)  # one rank is told, both stop
    assert [first.wait(), second.wait()] == [143, 143]
    assert "stopped by SIGTERM" in first.output
    assert second.output == ""
    status, output = nursery.run("finetune", "--resume", run, "--epochs", 3)
    assert status == 0, output


def test_the_whole_job_on_two_ranks(nursery, recipe, tmp_path):
    run = tmp_path / "run"
    results = nursery.run_ranks("finetune", *recipe, "--then-average", "-o", run)
    assert [status for status, _ in results] == [0, 0], results
    assert "swa.safetensors" in results[0][1]
    assert results[1][1] == ""
    metadata = read_metadata(run / "swa.safetensors")
    assert (metadata.bn.state, metadata.bn.n_samples) == ("updated", 24)
    # Once, by rank 0.
    told = "".join(output for _, output in results)
    assert told.count("images of each of the 2 ranks separately") == 1


def test_two_ranks_keep_one_average_in_the_run(nursery, without_bn, tmp_path):
    run = tmp_path / "run"
    results = nursery.run_ranks(
        "finetune", *without_bn, "--swa-online", "--swa-every", 1, "-o", run
    )
    assert [status for status, _ in results] == [0, 0], results
    captures = [load_state_dict(p) for p in sorted((run / "checkpoints").iterdir())]
    for key, tensor in load_state_dict(run / "swa.safetensors").items():
        mean = torch.stack([capture[key].double() for capture in captures]).mean(0)
        torch.testing.assert_close(tensor, mean.float(), rtol=2e-7, atol=1e-9)


def test_an_error_that_all_ranks_share_is_shown_once(nursery, recipe, tmp_path):
    results = nursery.run_ranks(
        "finetune", *recipe, "--data", tmp_path / "missing", "-o", tmp_path / "run"
    )
    assert [status for status, _ in results] == [1, 1]
    assert [output.count("Error:") for _, output in results] == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cycle-epochs", 0.01), "a cycle of 0.01 epochs is too short"),
        (("--batch-size", 5), "--batch-size 5: 2 processes cannot share it evenly"),
        (("--sync-bn",), "--sync-bn needs several processes"),
    ],
)
def test_an_error_of_the_plan_is_shown_once(nursery, recipe, tmp_path, arguments, message):
    results = nursery.run_ranks("finetune", *recipe, *arguments, "-o", tmp_path / "run")
    assert [status for status, _ in results] == [1, 1]
    assert len(results[0][1].splitlines()) == 1
    assert message in results[0][1]
    assert results[1][1] == ""
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_rate_is_refused_once_on_another_number_of_ranks(
    nursery, without_bn, alone
):
    results = nursery.run_ranks(
        "finetune", *without_bn, "--lr-max", 0.5, "--resume-if-exists", "-o", alone
    )
    assert [status for status, _ in results] == [1, 1]
    assert "schedule lr_max was 0.005, is now 0.5" in results[0][1]
    assert results[1][1] == ""


def test_weights_that_diverge_are_told_once(nursery, recipe, tmp_path):
    diverging = ("--schedule", "constant", "--lr-max", 1e30, "--cycle-steps", 1)
    place = recipe.index("--lr-min")
    others = (*recipe[:place], *recipe[place + 2 :])
    results = nursery.run_ranks("finetune", *others, *diverging, "-o", tmp_path / "run")
    assert [status for status, _ in results] == [1, 1], results
    assert "step 1 (epoch 0.17, learning rate 1e+30): the weights are not" in results[0][1]
    assert results[1][1] == ""


def test_when_one_rank_dies_the_other_ends_with_one_line(
    nursery, without_bn, tmp_path, wait_for_steps
):
    run = tmp_path / "run"
    first, second = nursery.start_ranks("finetune", *without_bn, "--epochs", 2000, "-o", run)
    wait_for_steps(run)
    second.kill()
    assert first.wait() == 1
    assert "lost the other processes" in first.output
    assert "Traceback" not in first.output


def test_a_restarted_attempt_resumes_by_itself_whatever_force_says(
    nursery, without_bn, alone, tmp_path, wait_for_steps
):
    run = tmp_path / "run"
    arguments = (*without_bn, "--resume-every", "1steps", "--force", "-o", run)
    first, second = nursery.start_ranks("finetune", *arguments, TORCHELASTIC_RUN_ID="none")
    wait_for_steps(run)
    second.kill()
    first.wait()
    second.wait()
    restart = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"}
    results = nursery.run_ranks("finetune", *arguments, **restart)
    assert [status for status, _ in results] == [0, 0], results
    assert "resuming" in results[0][1]
    assert_close(run, alone)
    steps = [r.step for r in read_records(run / "metrics.jsonl") if r.event == "step"]
    assert steps == list(range(2, 19, 2))


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_rank_was_killed_and_it_resumes_by_itself(
    without_bn, alone, tmp_path
):
    run = tmp_path / "run"
    # Rank 1 kills itself once, when the first cycle has been saved.
    script = tmp_path / "swa.py"
    script.write_text(DIES_ONCE)
    process = torchrun("--max-restarts", 1, script, "finetune", *without_bn, "--force", "-o", run)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "resuming" in output
    assert (tmp_path / "died").exists()
    assert_close(run, alone)
    steps = [r.step for r in read_records(run / "metrics.jsonl") if r.event == "step"]
    assert steps == list(range(2, 19, 2))


@pytest.mark.slow
def test_sigterm_to_torchrun_stops_all_ranks_with_a_point_to_resume_from(
    without_bn, tmp_path, wait_for_steps
):
    run = tmp_path / "run"
    arguments = ("-m", "swa_tools", "finetune", *without_bn, "--epochs", 2000, "-o", run)
    process = torchrun("--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1", *arguments)
    wait_for_steps(run)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "stopped by SIGTERM" in output
    assert load_resume_point(run / "resume.pt").step > 0


DIES_ONCE = """
import os, pathlib, signal, threading, time
import swa_tools.cli

died = pathlib.Path(__file__).with_name("died")
cycle = pathlib.Path(__file__).with_name("run") / "checkpoints" / "cycle-001.safetensors"

def watch():
    while not cycle.exists():
        time.sleep(0.005)
    died.touch()
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ["RANK"] == "1" and not died.exists():
    threading.Thread(target=watch, daemon=True).start()
swa_tools.cli.main()
"""


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, "--nproc-per-node", "2", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
