import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

from swa_tools.checkpoints import read_metadata
from swa_tools.cli import demo_job, demo_setting, run
from swa_tools.records import read_records


@contextlib.contextmanager
def short_demo(*, n_digits=None):
    """Train for a few epochs, on the first of the digits."""
    datasets = pytest.importorskip("sklearn.datasets")
    utilities = pytest.importorskip("sklearn.utils")
    digits = datasets.load_digits()
    some = utilities.Bunch(target=digits.target[:n_digits], images=digits.images[:n_digits])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", lambda: some)
        patch.setattr(demo_setting, "N_TRAIN", 200)
        patch.setattr(demo_setting, "START_EPOCHS", 1)
        patch.setattr(demo_setting, "BUDGET_EPOCHS", 3)
        patch.setattr(demo_setting, "SWA_EPOCHS", 2)
        patch.setattr(demo_setting, "VALIDATE_EPOCHS", 1)
        patch.setattr(demo_setting, "SWA_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a short demo, and the document that it printed."""
    output, printed = tmp_path_factory.mktemp("finished") / "demo", io.StringIO()
    with short_demo(n_digits=600), contextlib.redirect_stdout(printed):
        assert run(["demo", "-o", str(output), "--json"]) == 0
    return output, json.loads(printed.getvalue())


def test_the_demo_scores_every_step_of_the_way(finished, tmp_path, capsys):
    output, document = finished
    assert document["n_samples"] == 400
    assert [row["name"] for row in document["rows"]] == [
        "start",
        "conventional SGD",
        "capture 1",
        "capture 2",
        "average, BatchNorm stale",
        "average",
        "ensemble of the captures",
    ]
    assert (output / "accuracy.png").read_bytes().startswith(b"\x89PNG")

    def top1(arguments):
        call = ["evaluate", *arguments, "--data", str(output / "images"), "--json"]
        assert run([*call, "--workers", "0", "--results", str(tmp_path / "records")]) == 0
        return [one["top1"] for one in json.loads(capsys.readouterr().out)["checkpoints"]]

    by_name = {row["name"]: row["top1"] for row in document["rows"]}
    average, start = top1([f"{output}/average.safetensors", f"{output}/swa/start.safetensors"])
    assert (average, start) == (by_name["average"], by_name["start"])
    captures = [
        record.top1
        for record in read_records(output / "swa" / "metrics.jsonl")
        if record.checkpoint and record.checkpoint.startswith("cycle-")
    ]
    assert captures == [by_name["capture 1"], by_name["capture 2"]]
    differences = {one["name"]: one["difference"] for one in document["comparisons"]}
    assert differences == {
        "conventional SGD": average - by_name["conventional SGD"],
        "last capture": average - captures[-1],
        "best capture": average - max(captures),
    }


def test_a_folder_that_holds_something_is_not_overwritten(finished, capsys):
    output, _ = finished
    assert run(["demo", "-o", str(output)]) == 1
    assert "--force" in capsys.readouterr().err


def test_batchnorm_is_recomputed_on_the_view_of_the_training(finished):
    output, _ = finished
    metadata = read_metadata(output / "average.safetensors")
    assert metadata.bn.view == metadata.view
    assert metadata.bn.view.min_area == demo_setting.MIN_CROP_AREA


def result_of(*, control, last, p_value):
    top1 = {"start": 90.0, "conventional SGD": control, "capture 1": last, "average": 95.0}
    rows = tuple(demo_job.DemoRow(name, 10, value, 0.5) for name, value in top1.items())
    compared = (("conventional SGD", control), ("last capture", last))
    return demo_job.DemoResult(
        rows=rows,
        comparisons=tuple(
            demo_job.DemoComparison(name, 95.0 - value, p_value) for name, value in compared
        ),
        n_samples=1000,
        picture=Path("accuracy.png"),
    )


@pytest.mark.parametrize(
    ("control", "p_value", "expected"),
    [
        (
            93.0,
            0.01,
            "better: +2.00 points (p = 0.01) against conventional SGD with the same 10",
        ),
        (
            97.0,
            0.01,
            "WORSE: -2.00 points (p = 0.01) against conventional SGD with the same 10",
        ),
        (
            94.5,
            0.3,
            "no difference beyond noise: +0.50 points (p = 0.3) against conventional SGD",
        ),
        (
            95.0,
            1.0,
            "no difference beyond noise: +0.00 points (p = 1) against conventional SGD",
        ),
    ],
)
def test_the_verdict_says_what_came_out(monkeypatch, capsys, tmp_path, control, p_value, expected):
    result = result_of(control=control, last=80.0, p_value=p_value)
    monkeypatch.setattr(demo_job, "run_demo", lambda *_, **__: result)
    assert run(["demo", "-o", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert expected in out
    assert "+15.00 points" in out
    assert "against last capture" in out


def test_a_missing_scikit_learn_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run(["demo", "-o", str(tmp_path / "demo")]) == 1
    assert "pip install 'swa-tools[demo]'" in capsys.readouterr().err


def test_images_of_another_seed_are_in_one_split_only(tmp_path):
    with short_demo():
        for seed in (0, 1):
            demo_job.write_digits(tmp_path, seed=seed)
    train, val = ({p.name for p in (tmp_path / one).rglob("*.png")} for one in ("train", "val"))
    assert (len(train), len(val)) == (200, 1597)
    assert not train & val
