import json

import pytest

from swa_tools.errors import OutputError, TrainingError
from swa_tools.run_directory import RunDirectory
from swa_tools.training.description import launcher
from swa_tools.training.start import is_resumed


@pytest.fixture
def attempt(monkeypatch):
    """Become an attempt of a torchrun job, or none."""

    def become(run_id, *, restart=0, parent=None):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restart))
        if parent is not None:
            monkeypatch.setattr("os.getppid", lambda: parent)

    return become


@pytest.fixture
def directory(tmp_path):
    """A run with a point to resume from, which says who started it."""
    directory = RunDirectory(tmp_path / "run")
    directory.create(ema=False)
    directory.resume.touch()

    def describe():
        document = {} if launcher() is None else {"launcher": launcher()}
        directory.description.write_text(json.dumps(document))
        return directory

    return describe


def test_without_torchrun_there_is_no_launcher(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launcher() is None


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("run_id", "parent"), [("none", 7), ("", 7), ("job-5", 8)])
def test_a_restarted_attempt_goes_on_with_its_own_run(
    options, attempt, directory, force, run_id, parent
):
    attempt(run_id, parent=7)
    run = directory()
    attempt(run_id, restart=1, parent=parent)
    assert is_resumed(options(force=force), run)


@pytest.mark.parametrize(("run_id", "later", "parent"), [("none", "none", 8), ("a", "b", 7)])
def test_a_restarted_attempt_leaves_the_run_of_another_job_alone(
    options, attempt, directory, run_id, later, parent
):
    attempt(run_id, parent=7)
    run = directory()
    attempt(later, restart=1, parent=parent)
    with pytest.raises(OutputError, match="not empty"):
        is_resumed(options(), run)
    assert not is_resumed(options(force=True), run)
    assert is_resumed(options(resume_if_exists=True), run)


def test_a_restarted_attempt_leaves_a_run_without_torchrun_alone(
    options, attempt, directory, monkeypatch
):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    run = directory()
    attempt("none", restart=1)
    assert not is_resumed(options(force=True), run)


def test_the_first_attempt_of_the_same_job_name_is_no_restart(options, attempt, directory):
    attempt("none", parent=7)
    assert not is_resumed(options(force=True), directory())


@pytest.mark.parametrize(
    "name",
    ["checkpoints/cycle-001.safetensors", "swa.safetensors", "metrics.jsonl", "results.jsonl"],
)
def test_results_without_a_point_to_resume_from_are_not_removed(options, directory, name):
    run = directory()
    run.resume.unlink()
    for changes in ({"resume": True}, {"resume_if_exists": True}):
        assert not is_resumed(options(**changes), run)
    (run.path / name).write_text("something")
    for changes in ({"resume": True}, {"resume_if_exists": True}):
        with pytest.raises(TrainingError, match="no point to resume from, but the run has results"):
            is_resumed(options(**changes), run)
        assert not is_resumed(options(force=True, **changes), run)
