import csv
import json
import shutil

import pytest

from swa_tools.cli import run
from swa_tools.records import read_records

NAMES = ["first-001", "first-002", "first-003", "last-001", "last-002", "last-003"]


@pytest.fixture
def sweep(image_folder, run_with_captures, capsys):
    def call(*arguments, status=0):
        common = ["--data", image_folder, "--device", "cpu", "--workers", "0"]
        assert run(["sweep", *map(str, (run_with_captures, *arguments, *common))]) == status
        return capsys.readouterr()

    return call


def test_the_table_its_csv_its_picture_and_its_records(sweep, run_with_captures, tmp_path):
    table, picture = tmp_path / "sweep.csv", tmp_path / "sweep.png"
    printed = sweep("--csv", table, "--plot", picture).out
    assert "first 3" in printed
    assert "last 2" in printed
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [f"{row['end']}-{int(row['n']):03d}" for row in rows] == NAMES
    records = list(read_records(run_with_captures / "results.jsonl"))
    assert [record.checkpoint for record in records] == NAMES
    assert {(record.kind, record.bn, record.split) for record in records} == {
        ("average", "updated", "val")
    }
    assert [float(row["top1"]) for row in rows] == [record.top1 for record in records]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_is_one_document(sweep, run_with_captures):
    document = json.loads(sweep("--json", "--split", "train", "--samples", "9").out)
    assert [one["name"] for one in document["averages"]] == NAMES
    assert document["averages"][1]["sources"] == [
        str(run_with_captures / "checkpoints" / f"cycle-00{i}.safetensors") for i in (1, 2)
    ]
    assert document["averages"][0]["n_samples"] == 24


def test_copies_count_once(sweep, run_with_captures):
    captures = run_with_captures / "checkpoints"
    shutil.copy(captures / "cycle-001.safetensors", captures / "cycle-004.safetensors")
    found = sweep()
    assert "cycle-004.safetensors: has the same weights as" in found.err
    assert "first 3" in found.out
    assert "first 4" not in found.out


def test_what_cannot_be_written_is_refused_before_the_work(sweep, tmp_path):
    assert "sweep.xyz" in sweep("--plot", tmp_path / "sweep.xyz", status=1).err
    assert "no folder" in sweep("--results", tmp_path / "nowhere" / "r.jsonl", status=1).err


def test_an_output_that_exists_is_refused_before_the_work(sweep, tmp_path):
    table = tmp_path / "sweep.csv"
    table.write_text("mine")
    found = sweep("--csv", table, status=1)
    assert "exists already" in found.err
    assert found.err.count("\n") == 1
    assert table.read_text() == "mine"
