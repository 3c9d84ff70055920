import json

import numpy as np
import pytest

from swa_tools.errors import SwaToolsError
from swa_tools.records import Record, append_records
from swa_tools.report.figures.run_curves import run_curves
from swa_tools.report.runs import kind_of, load_run, load_runs, newest, windows_of


def test_scores_stand_in_the_order_of_the_work(write_run):
    run = load_run(write_run("run", n_cycles=11, average=70.0))
    names = [score.name for score in run.scores()]
    cycles = [f"cycle-{i:03d}" for i in range(1, 12)]
    assert names == ["start", *cycles, "average swa"]


def test_a_later_score_of_the_same_thing_replaces_the_earlier_one(write_run):
    folder = write_run("run")
    again = Record(
        event="evaluation",
        checkpoint="cycle-003.safetensors",
        kind="checkpoint",
        split="val",
        n_samples=1000,
        top1=12.5,
    )
    append_records(folder / "results.jsonl", [again])
    scores = {score.name: score.record.top1 for score in load_run(folder).scores()}
    assert scores["cycle-003"] == 12.5
    assert len(scores) == 4


def test_stale_averages_and_training_images_have_lines_of_their_own(write_run):
    folder = write_run("run", average=70.0)
    common = {"event": "evaluation", "checkpoint": "swa.safetensors", "kind": "average"}
    append_records(
        folder / "results.jsonl",
        [
            Record(**common, bn="stale", split="val", n_samples=1000, top1=50.0),
            Record(**common, bn="updated", split="train", n_samples=1000, top1=90.0),
        ],
    )
    run = load_run(folder)
    assert [score.name for score in run.scores()][-3:] == [
        "average swa (stale BatchNorm)",
        "average swa",
        "average swa (training images)",
    ]
    assert run.last("average").record.top1 == 70.0


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"checkpoint": "start.safetensors", "kind": "checkpoint"}, "start"),
        ({"checkpoint": "cycle-001.safetensors", "kind": "checkpoint"}, "checkpoint"),
        ({"checkpoint": None, "kind": "checkpoint"}, None),
        ({"checkpoint": "ensemble", "kind": "ensemble"}, "ensemble"),
        ({"checkpoint": "first-003.safetensors", "kind": "average"}, "sweep"),
        ({"checkpoint": "first-half.safetensors", "kind": "average"}, "average"),
    ],
)
def test_kind_of_a_record(fields, kind):
    assert kind_of(Record(event="evaluation", top1=1.0, **fields)) == kind


def test_running_averages_are_windows_and_no_lines(write_run):
    folder = write_run("run", average=70.0)
    append_records(
        folder / "results.jsonl",
        [
            Record(
                event="evaluation",
                checkpoint=f"{side}-{n:03d}.safetensors",
                kind="average",
                split="val",
                n_samples=1000,
                top1=60.0 + n,
            )
            for side in ("first", "last")
            for n in (2, 1)
        ],
    )
    run = load_run(folder)
    expected = [(1, 61.0, 1000), (2, 62.0, 1000)]
    assert windows_of(run) == {"first n": expected, "last n": expected}
    assert run.last("average").record.top1 == 70.0
    assert not any("first" in score.name for score in run.scores())


def test_of_several_averages_the_newest_counts(write_run):
    folder = write_run("run", average=70.0)
    common = {"event": "evaluation", "kind": "average", "split": "val", "n_samples": 1000}
    append_records(
        folder / "results.jsonl",
        [
            Record(**common, checkpoint="a.safetensors", bn="updated", top1=66.0),
            Record(**common, checkpoint="zz.safetensors", bn="stale", top1=10.0),
            Record(**common, checkpoint="first-002.safetensors", bn="updated", top1=20.0),
        ],
    )
    run = load_run(folder)
    assert run.last("average").name == "average a"
    assert run.last("average").record == newest(run.records, "average")
    assert run_curves(run.records).average == 66.0


def test_an_npz_of_another_tool_is_left_out_with_a_notice(write_run, write_surfaces):
    folder = write_run("run")
    write_surfaces(folder)
    np.savez(folder / "theirs.npz", x=np.arange(3))
    run = load_run(folder)
    assert len(run.numbers) == 4
    (notice,) = run.notices
    assert notice.startswith("left out of the report")
    assert "theirs.npz: expected an .npz from swa-tools" in notice


def test_runs_of_the_same_name_are_told_apart_by_their_folders(write_run):
    runs = load_runs([write_run("one/swa"), write_run("two/swa")])
    assert [run.name for run in runs] == ["one/swa", "two/swa"]


def test_a_run_named_twice_is_refused(write_run, tmp_path):
    folder = write_run("run")
    with pytest.raises(SwaToolsError, match="given twice"):
        load_runs([folder, tmp_path / "run" / ".." / "run"])


def test_folders_without_records_are_refused(tmp_path):
    with pytest.raises(SwaToolsError, match="missing: no such run"):
        load_run(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SwaToolsError, match="nothing to report; expected metrics.jsonl"):
        load_run(tmp_path / "empty")


@pytest.mark.parametrize("text", ["{", "[1]", '"x"'])
def test_a_broken_description_is_an_error(write_run, text):
    folder = write_run("run")
    (folder / "run.json").write_text(text)
    with pytest.raises(SwaToolsError, match="run.json"):
        load_run(folder)


@pytest.mark.parametrize("document", [{}, {"plan": 3, "options": [], "model": "x"}])
def test_a_poor_description_is_enough(write_run, document):
    from swa_tools.report.contents import run_section

    folder = write_run("run")
    (folder / "run.json").write_text(json.dumps(document))
    run = load_run(folder)
    assert run.n_epochs is None
    assert run_section(run, [run]).tables
