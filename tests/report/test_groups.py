import json

import pytest

from swa_tools.report.groups import controls_of, replicates
from swa_tools.report.runs import load_runs


def names(groups):
    return [[run.name for run in group] for group in groups]


def change(folder, *, start=None, **description):
    """Give a run another start, and other entries in `run.json`."""
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | description))
    if start is not None:
        metrics = folder / "metrics.jsonl"
        metrics.write_text(metrics.read_text().replace('"digest": "d0"', f'"digest": "{start}"'))
    return folder


def test_runs_that_differ_in_the_seed_alone_belong_together(write_run):
    folders = [
        write_run("a0", seed=0, lr_max=0.1, workers=1),
        write_run("b", seed=0, lr_max=0.2),
        write_run("a1", seed=1, lr_max=0.1, workers=8),
        write_run("a2", seed=2, lr_max=0.1),
    ]
    assert names(replicates(load_runs(folders))) == [["a0", "a1", "a2"], ["b"]]


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"then_average": True, "tensorboard": True, "keep_checkpoints": 1}, True),
        ({"accumulate": 4, "amp": "bf16", "sync_bn": True, "compile": True}, True),
        ({"swa_every": 2, "skip_bad_images": True, "allow_nonfinite": True}, True),
        ({"ema": None, "include_init": False, "batch_size": 256}, True),  # the defaults
        ({"ema": 0.99}, False),
        ({"include_init": True}, False),
        ({"batch_size": 128}, False),
        ({"cycle_epochs": 2}, False),
        ({"epochs": 20}, False),
        ({"data": "/elsewhere"}, False),
        ({"of_another_trainer": 1}, False),
    ],
)
def test_replicates_may_be_computed_and_watched_in_other_ways(write_run, changes, together):
    folders = [write_run("a", seed=0), write_run("b", seed=1, **changes)]
    assert len(replicates(load_runs(folders))) == (1 if together else 2)


@pytest.mark.parametrize(
    ("checkpoints", "starts", "together"),
    [
        (("x.pth", "y.pth"), ("d1", "d2"), False),
        (("x.pth", "folder/x.pth"), ("d1", "d1"), True),
        (("x.pth", "x.pth"), ("d1", "d2"), True),  # a new classifier, made by the seed
        ((None, None), ("d1", "d2"), True),  # random weights, made by the seed
        (("x.pth", None), ("d1", "d2"), False),
    ],
)
def test_runs_from_different_starts_are_no_replicates(write_run, checkpoints, starts, together):
    folders = [
        change(write_run(f"run{seed}", seed=seed, checkpoint=checkpoint), start=start)
        for seed, (checkpoint, start) in enumerate(zip(checkpoints, starts, strict=True))
    ]
    assert len(replicates(load_runs(folders))) == (1 if together else 2)


@pytest.mark.parametrize(("rate", "together"), [(0.1, True), (0.2, False)])
def test_continued_replicates_are_replicates(write_run, rate, together):
    folders = []
    for seed, lr_max in enumerate((0.1, rate)):
        write_run(f"start{seed}", seed=seed, lr_max=lr_max)
        ending = {"n_epochs": 3.0, "start_digest": f"d{seed}", "options": {"lr_max": lr_max}}
        later = write_run(f"later{seed}", seed=seed, from_run=f"start{seed}")
        folders.append(change(later, start=f"end{seed}", earlier=ending))
    assert len(replicates(load_runs(folders))) == (1 if together else 2)


def test_runs_of_one_seed_are_no_replicates(write_run):
    folders = [write_run("a", seed=0), write_run("b", seed=0), write_run("c", seed=1)]
    assert len(replicates(load_runs(folders))) == 3


def test_runs_without_a_description_are_no_replicates(write_run):
    folders = [write_run("a"), write_run("b")]
    for folder in folders:
        (folder / "run.json").unlink()
    assert len(replicates(load_runs(folders))) == 2


def test_a_control_has_one_capture_and_as_many_epochs(write_run):
    folders = [
        write_run("swa", n_cycles=4),
        write_run("sgd", n_cycles=1, n_epochs=4),
        write_run("short", n_cycles=1, n_epochs=2),
    ]
    swa, sgd, short = load_runs(folders)
    assert controls_of(swa, [swa, sgd, short]) == [sgd]
    assert controls_of(sgd, [swa, sgd, short]) == []


def test_a_control_may_be_as_long_as_the_run_with_what_it_continues(write_run):
    """Section 4.4: from scratch at a fixed rate, and conventionally for as many epochs."""
    earlier = {"n_epochs": 5.0, "start_digest": "d0", "options": {}}
    folders = [
        change(write_run("late", from_run="early"), start="d5", earlier=earlier),
        write_run("conventional", n_cycles=1, n_epochs=8),
        write_run("short", n_cycles=1, n_epochs=3),
        change(write_run("elsewhere", n_cycles=1, n_epochs=8), start="other"),
    ]
    runs = load_runs(folders)
    assert [run.name for run in controls_of(runs[0], runs)] == ["conventional"]
