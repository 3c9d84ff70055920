import pytest

from swa_tools.errors import OutputError, TrainingError
from swa_tools.records import Record
from swa_tools.training.run_directory import RunDirectory, capture_name


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
    with pytest.raises(TrainingError, match=f"at the point to resume from they were {n_bytes + 1}"):
        directory.truncate_metrics(n_bytes + 1)


def test_captures_are_named_by_cycle_and_the_end_of_a_conventional_run_is_final():
    assert capture_name(7) == "cycle-007.safetensors"
    assert capture_name(1234) == "cycle-1234.safetensors"
    assert capture_name(None) == "final.safetensors"
