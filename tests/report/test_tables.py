import statistics

import pytest

from swa_tools.records import Record, append_records
from swa_tools.report.facts import describe_epochs, describe_schedule, facts
from swa_tools.report.runs import load_run, load_runs
from swa_tools.report.tables import (
    MOST_CAPTURES,
    comparison_summary,
    comparison_table,
    mean_and_deviation,
    score_table,
    summary,
)
from swa_tools.statistics import wilson_interval


def column(table, title):
    position = table.columns.index(title)
    return [row[position] for row in table.rows]


def test_table_of_a_run_holds_scores_with_intervals(write_run):
    table = score_table(load_run(write_run("run", average=70.0)))
    assert column(table, "weights") == [
        "start",
        *(f"cycle-00{i}" for i in (1, 2, 3)),
        "average swa",
    ]
    assert column(table, "top-1 %") == ["60.00", "61.00", "62.00", "63.00", "70.00"]
    low, high = wilson_interval(700, 1000)
    assert column(table, "95 %")[-1] == f"{low:.2f} – {high:.2f}"
    assert column(table, "images") == ["1,000"] * 5
    assert "on 1,000 images" in table.caption


def test_a_control_stands_beside_the_run(write_run):
    folders = [write_run("swa", average=70.0), write_run("sgd", n_cycles=1, n_epochs=3, top1=64.5)]
    runs = load_runs(folders)
    table = score_table(runs[0], runs)
    assert table.kinds[:2] == ("start", "control")
    assert table.rows[1][0] == "control: sgd"
    assert column(table, "top-1 %")[1] == "65.50"


def test_of_many_captures_the_first_the_best_and_the_last_are_shown(write_run):
    run = load_run(write_run("run", n_cycles=MOST_CAPTURES + 5))
    names = column(score_table(run), "weights")
    assert names == ["start", "cycle-001 (first of 25 captures)", "cycle-025 (last of 25 captures)"]
    assert len(score_table(run, whole=True).rows) == 26


def test_several_seeds_become_mean_and_deviation(write_run):
    averages = [70.0, 71.0, 73.5]
    folders = [
        write_run(f"swa{seed}", seed=seed, average=average) for seed, average in enumerate(averages)
    ]
    table = comparison_table(load_runs([*folders, write_run("other", lr_max=1.0)]))
    assert column(table, "run") == ["swa0 (3 seeds)", "other"]
    expected = f"{statistics.mean(averages):.2f} ± {statistics.stdev(averages):.2f}"
    assert column(table, "average") == [expected, ""]
    assert column(table, "last capture") == ["63.00 ± 0.00", "63.00"]


def test_what_matters_most_is_seen_on_a_narrow_screen(write_run):
    runs = load_runs([write_run("swa", average=70.0), write_run("sgd", n_cycles=1, n_epochs=3)])
    assert comparison_table(runs).columns[:3] == ("run", "average", "last capture")
    assert score_table(runs[0], runs).columns[:3] == ("weights", "top-1 %", "95 %")


def test_epochs_count_those_of_the_run_that_was_continued(write_run, tmp_path):
    early = write_run("early", n_cycles=5)
    (early / "metrics.jsonl").write_text('{"event": "epoch", "epoch": 5.0}\n')
    late = write_run("late", from_run=str(early), average=70.0)
    lost = write_run("lost", from_run=str(tmp_path / "gone"))
    table = comparison_table(load_runs([late, early, lost]))
    assert column(table, "epochs") == ["8 (5 + 3)", "5", "? + 3"]
    assert "finetune --from" in table.caption
    assert dict(facts(load_run(late)))["epochs"] == "8 (5 + 3)"
    assert describe_epochs(load_run(early)) == "5"


def test_several_runs_are_summed_up_in_one_sentence(write_run):
    folders = [
        write_run("a", average=70.0, lr_max=0.1),
        write_run("b", average=62.5, lr_max=0.2),
        write_run("sgd", n_cycles=1, n_epochs=3, top1=64.5),
    ]
    assert comparison_summary(load_runs(folders)) == (
        "The averages of 2 kinds of run have a top-1 of 62.50 to 70.00 %, highest for a;"
        " 2 of 2 are above the start, 1 of 2 are above the last capture,"
        " 1 of 2 are above the control sgd."
    )


def test_seeds_are_summed_up_in_one_sentence(write_run):
    folders = [write_run(f"a{i}", seed=i, average=average) for i, average in ((0, 64), (1, 66))]
    assert comparison_summary(load_runs(folders)) == (
        "The averages of a0 (2 seeds) have a top-1 of 65.00 ± 1.41 %;"
        " 2 of 2 are above the start, 2 of 2 are above the last capture."
    )


def test_one_averaged_run_among_others_is_summed_up_by_itself(write_run):
    runs = load_runs([write_run("early"), write_run("late", lr_max=1.0, average=70.0)])
    assert comparison_summary(runs) == f"late: {summary(runs[1], runs)}"


def test_runs_without_averages_are_summed_up_by_their_captures(write_run):
    runs = load_runs([write_run("a"), write_run("b", lr_max=1.0, top1=64.0)])
    assert comparison_summary(runs) == (
        "The last captures of 2 kinds of run have a top-1 of 63.00 to 67.00 %, highest for b."
    )


def test_mean_of_one_or_none():
    assert mean_and_deviation([]) == ""
    assert mean_and_deviation([66.666]) == "66.67"


def test_schedule_is_told_in_a_few_words(write_run):
    assert describe_schedule(load_run(write_run("run"))) == "sawtooth 0.05 → 0.0005, cycle 1 epoch"
    long = load_run(write_run("long", n_cycles=2, n_epochs=5))
    assert describe_schedule(long).endswith("cycle 2.47 epochs")


@pytest.mark.parametrize(
    ("average", "text"),
    [
        (70.0, "10.00 points above the start, 7.00 points above the last capture"),
        (61.5, "1.50 points above the start, 1.50 points BELOW the last capture"),
        (60.0, "the same as the start, 3.00 points BELOW the last capture"),
    ],
)
def test_summary_tells_what_came_out_whichever_way_it_went(write_run, average, text):
    assert text in summary(load_run(write_run("run", average=average)))


def test_summary_says_which_of_several_averages_it_means(write_run):
    folder = write_run("run", average=70.0)
    common = {"event": "evaluation", "kind": "average", "split": "val", "n_samples": 1000}
    newer = Record(**common, checkpoint="a.safetensors", bn="updated", top1=66.0)
    append_records(folder / "results.jsonl", [newer])
    text = summary(load_run(folder))
    assert text.startswith("The average a (the newest of 2) has a top-1 of 66.00 %")


def test_summary_of_a_run_without_an_average(write_run):
    assert "cycle-003, has a top-1 of 63.00 %" in summary(load_run(write_run("run")))


def test_facts_are_what_is_known(write_run):
    known = dict(facts(load_run(write_run("run", seed=3))))
    assert known["model"] == "timm/resnet18"
    assert known["seed"] == "3"
    assert known["training images"] == "2,000"
    assert known["optimizer"] == "sgd, momentum 0.9"
    assert "device" not in known
