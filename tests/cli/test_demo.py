import json
import sys

import pytest

from swa_tools.cli import demo_job, run
from swa_tools.records import read_records


@pytest.fixture
def short(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(demo_job, "N_TRAIN", 200)
    monkeypatch.setattr(demo_job, "START_EPOCHS", 1)
    monkeypatch.setattr(demo_job, "BUDGET_EPOCHS", 3)
    monkeypatch.setattr(demo_job, "SWA_EPOCHS", 2)


def test_the_demo_scores_every_step_of_the_way(short, tmp_path, capsys):
    output = tmp_path / "demo"
    assert run(["demo", "-o", str(output), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n_samples"] == 1597
    assert [row["name"] for row in document["rows"]] == [
        "start",
        "conventional SGD",
        "minimum of cycle 1",
        "minimum of cycle 2",
        "average, BatchNorm stale",
        "average",
        "ensemble of the minima",
    ]
    assert (output / "accuracy.png").read_bytes().startswith(b"\x89PNG")

    def top1(arguments):
        call = ["evaluate", *arguments, "--data", str(output / "images"), "--json"]
        assert run([*call, "--workers", "0", "--results", str(tmp_path / "records")]) == 0
        return [one["top1"] for one in json.loads(capsys.readouterr().out)["checkpoints"]]

    by_name = {row["name"]: row["top1"] for row in document["rows"]}
    average, start = top1([f"{output}/average.safetensors", f"{output}/swa/start.safetensors"])
    assert (average, start) == (by_name["average"], by_name["start"])
    minima = [
        record.top1
        for record in read_records(output / "swa" / "metrics.jsonl")
        if record.checkpoint and record.checkpoint.startswith("cycle-")
    ]
    assert minima == [by_name["minimum of cycle 1"], by_name["minimum of cycle 2"]]
    # A folder that holds something is not overwritten.
    assert run(["demo", "-o", str(output)]) == 1
    assert "--force" in capsys.readouterr().err


def test_a_missing_scikit_learn_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run(["demo", "-o", str(tmp_path / "demo")]) == 1
    assert "pip install 'swa-tools[demo]'" in capsys.readouterr().err


def test_images_of_another_seed_are_in_one_split_only(short, tmp_path):
    for seed in (0, 1):
        demo_job.write_digits(tmp_path, seed=seed)
    train, val = ({p.name for p in (tmp_path / one).rglob("*.png")} for one in ("train", "val"))
    assert (len(train), len(val)) == (200, 1597)
    assert not train & val
