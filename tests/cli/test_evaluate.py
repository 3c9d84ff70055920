import json

import pytest

from swa_tools.cli import run
from swa_tools.records import read_records

CLASSES = ("blue", "green", "red")


@pytest.fixture
def evaluate(image_folder, capsys):
    def call(*arguments, status=0):
        common = ["--data", image_folder, "--device", "cpu", "--workers", "0"]
        assert run(["evaluate", *map(str, (*arguments, *common))]) == status
        return capsys.readouterr()

    return call


def test_a_run_is_scored_in_a_table_and_in_its_records(run_with_captures, evaluate):
    results = run_with_captures / "results.jsonl"
    printed = evaluate(run_with_captures, "--ensemble").out
    for name in ("cycle-001.safetensors", "cycle-003.safetensors", "ensemble of 3", "best"):
        assert name in printed
    assert "consecutive members, largest" in printed
    assert "12 images of val" in printed
    records = list(read_records(results))
    assert [record.checkpoint for record in records] == [
        "cycle-001.safetensors",
        "cycle-002.safetensors",
        "cycle-003.safetensors",
        "ensemble",
    ]
    assert [record.cycle for record in records] == [1, 2, 3, None]
    assert {record.split for record in records} == {"val"}
    assert records[0].command.startswith("swa-tools ")


def test_scores_that_cannot_be_recorded_are_shown(run_with_captures, evaluate, tmp_path):
    (run_with_captures / "results.jsonl").mkdir()
    found = evaluate(run_with_captures)
    assert "cycle-003.safetensors" in found.out
    assert "these scores were not recorded; name another file with --results FILE" in found.err
    results = tmp_path / "mine.jsonl"
    results.write_text("no record")
    found = evaluate(run_with_captures, "--results", results, status=1)
    assert "cycle-003.safetensors" in found.out
    assert "expected a file of records" in found.err


def test_every_class_has_its_top1_of_every_checkpoint(run_with_captures, evaluate):
    printed = evaluate(run_with_captures, "--per-class").out
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith(CLASSES)]
    assert [row[:2] for row in rows] == [[name, "4"] for name in CLASSES]
    assert all(len(row) == 5 for row in rows)


def test_json_is_one_document(run_with_captures, evaluate, tmp_path):
    average = run_with_captures / "average.safetensors"
    arguments = [run_with_captures, average, "--allow-stale-bn", "--ensemble", "--per-class"]
    found = evaluate(
        *arguments, "--json", "--split", "train", "--results", tmp_path / "scores.jsonl"
    )
    document = json.loads(found.out)
    assert (document["split"], document["n_samples"], document["n_skipped"]) == ("train", 24, 0)
    assert [one["kind"] for one in document["checkpoints"]] == ["checkpoint"] * 3 + ["average"]
    for one in document["checkpoints"]:
        assert one["top1"] == pytest.approx(100 * one["n_correct"] / 24)
        low, high = one["top1_interval"]
        assert 0 <= low <= one["top1"] <= high <= 100
        assert 0 <= one["p_against_best"] <= 1
        assert list(one["per_class"]) == list(CLASSES)
        assert sum(part["n_correct"] for part in one["per_class"].values()) == one["n_correct"]
        assert (one["top5"], one["real"]) == (None, None)
    assert document["ensemble"]["members"] == [f"cycle-00{i}.safetensors" for i in (1, 2, 3)]
    assert document["agreements"][-1]["first"] == "average.safetensors"
    assert len(list(read_records(tmp_path / "scores.jsonl"))) == 5
    assert not (run_with_captures / "results.jsonl").exists()


def test_one_checkpoint_has_nothing_to_be_compared_with(run_with_captures, evaluate, tmp_path):
    capture = run_with_captures / "checkpoints" / "cycle-001.safetensors"
    printed = evaluate(capture, "--per-class", "--results", tmp_path / "scores.jsonl").out
    assert "best" not in printed
    assert all(name in printed for name in CLASSES)


def test_a_stale_average_is_refused_in_one_line(run_with_captures, evaluate):
    found = evaluate(run_with_captures / "average.safetensors", status=1)
    assert found.out == ""
    assert found.err.startswith("Error: ")
    assert "swa-tools update-bn" in found.err
    assert found.err.count("\n") == 1


def test_saved_logits_give_the_same_scores(run_with_captures, evaluate, tmp_path):
    arguments = [
        run_with_captures,
        "--json",
        "--save-logits",
        tmp_path,
        "--results",
        tmp_path / "r",
    ]
    first = evaluate(*arguments).out
    assert len(list(tmp_path.glob("*.logits.safetensors"))) == 3
    assert evaluate(*arguments).out == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.safetensors"], "missing.safetensors: no such file"),
        (["CAPTURE", "--val-dir", "nowhere"], "nowhere: cannot read this folder"),
        (["CAPTURE", "--ensemble"], "an ensemble needs at least two checkpoints"),
        (["CAPTURE", "--model", "timm/resnet18"], "metadata says model"),
    ],
)
def test_errors_are_one_line_with_status_1(run_with_captures, evaluate, arguments, message):
    capture = run_with_captures / "checkpoints" / "cycle-001.safetensors"
    arguments = [capture if one == "CAPTURE" else one for one in arguments]
    found = evaluate(*arguments, status=1)
    assert found.out == ""
    assert found.err.startswith("Error: ")
    assert message in found.err
    assert found.err.count("\n") == 1
