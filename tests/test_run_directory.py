from pathlib import Path

import pytest

from swa_tools.errors import OutputError, SwaToolsError, TrainingError
from swa_tools.records import Record
from swa_tools.run_directory import (
    RunDirectory,
    common_run,
    common_run_of_captures,
    options_in,
    run_of_capture,
)


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_what_a_run_leaves_that_was_killed_as_it_began_does_not_count_as_files(directory):
    directory.create(ema=True)
    (directory.path / ".run.json.123.tmp").touch()
    directory.check_free(force=False)
    assert not directory.exists()


def test_a_file_in_the_place_of_the_folder_is_refused(directory):
    directory.path.touch()
    with pytest.raises(OutputError, match="is a file"):
        directory.check_free(force=True)
    with pytest.raises(OutputError, match="is a file"):
        RunDirectory(directory.path / "below").check_free(force=False)


def test_creating_removes_an_earlier_run_and_nothing_else(directory):
    directory.create(ema=False)
    for name in ("run.json", "resume.pt", "start.safetensors", "metrics.jsonl", "swa.safetensors"):
        (directory.path / name).touch()
    (directory.checkpoints / "cycle-009.safetensors").touch()
    kept = [directory.path / "notes.txt", directory.checkpoints / "readme"]
    for path in kept:
        path.touch()
    directory.create(ema=False)
    assert sorted(p for p in directory.path.rglob("*") if p.is_file()) == sorted(kept)


def test_metrics_are_cut_back_to_the_point_of_resuming(directory):
    directory.create(ema=False)
    directory.append([Record(event="step", step=1)])
    n_bytes = directory.sync_metrics()
    directory.append([Record(event="step", step=2)])
    directory.truncate_metrics(n_bytes)
    assert directory.metrics.stat().st_size == n_bytes
    with pytest.raises(TrainingError, match=f"expected at least the {n_bytes + 1} of the point"):
        directory.truncate_metrics(n_bytes + 1)


def test_captures_are_named_by_cycle_and_the_end_of_a_conventional_run_is_final():
    run = RunDirectory(Path("run"))
    assert run.capture(7) == Path("run/checkpoints/cycle-007.safetensors")
    assert run.capture(1234).name == "cycle-1234.safetensors"
    assert run.capture(None).name == "final.safetensors"


@pytest.fixture
def run(directory):
    directory.create(ema=True)
    directory.describe({"options": {"seed": 3}})
    return directory


def test_a_capture_knows_its_run(run, tmp_path):
    assert run_of_capture(run.checkpoints / "cycle-001.safetensors") == run
    assert run_of_capture(run.ema / "cycle-001.safetensors") is None
    assert run_of_capture(run.start) is None
    assert run_of_capture(tmp_path / "checkpoints/a.safetensors") is None


def test_a_capture_knows_its_run_by_a_relative_path(run, monkeypatch):
    monkeypatch.chdir(run.checkpoints)
    assert run_of_capture(Path("cycle-1.safetensors")) == run


def test_files_have_a_run_in_common_if_all_lie_in_it(run, tmp_path):
    files = [
        run.start,
        run.ema / "cycle-001.safetensors",
        run.checkpoints / "cycle-001.safetensors",
    ]
    assert common_run(files) == run
    assert common_run([*files, tmp_path / "other.safetensors"]) is None
    assert common_run_of_captures(files) is None
    assert common_run_of_captures(files[2:]) == run


def test_a_broken_description_is_an_error_unless_nothing_depends_on_it(run):
    assert options_in(run.read_description()) == {"seed": 3}
    run.description.write_text("{")
    assert run.readable_description() == {}
    with pytest.raises(SwaToolsError, match=f"{run.description}: cannot read this file"):
        run.read_description()
    run.description.write_text("[]")
    with pytest.raises(SwaToolsError, match="expected the description of a run"):
        run.read_description()
    assert options_in({"options": 3}) == {}
