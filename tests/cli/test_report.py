import os
import subprocess
import sys

import pytest

from swa_tools.cli import run
from swa_tools.records import Record, append_records


@pytest.fixture
def scored_run(small_run):
    common = {"event": "evaluation", "split": "val", "n_samples": 100, "nll": 1.0, "ece": 2.0}
    (small_run / "metrics.jsonl").unlink(missing_ok=True)
    append_records(
        small_run / "metrics.jsonl",
        [
            Record(event="step", step=1, epoch=0.5, lr=0.1, cycle=1),
            Record(
                **common,
                checkpoint="cycle-001.safetensors",
                kind="checkpoint",
                top1=61.0,
                epoch=1.0,
                lr=0.01,
                cycle=1,
            ),
            Record(
                **common,
                checkpoint="average.safetensors",
                kind="average",
                bn="updated",
                top1=62.0,
                command="swa-tools average run --data images",
            ),
        ],
    )
    return small_run


@pytest.fixture
def report(capsys):
    def call(*arguments):
        status = run(["report", *map(str, arguments)])
        return status, capsys.readouterr()

    return call


def test_page_and_pictures_are_written(report, scored_run, tmp_path):
    status, printed = report(scored_run, "-o", tmp_path / "page")
    assert status == 0, printed.err
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert names == {"index.html", "run.png", "run.svg"}
    page = (tmp_path / "page" / "index.html").read_text()
    assert "62.00" in page
    assert "swa-tools average run --data images" in page


def test_terminal_readers_get_the_same_table(report, scored_run):
    status, printed = report(scored_run, "--text")
    assert status == 0
    for text in ("cycle-001", "average", "61.00", "62.00", "95 %"):
        assert text in printed.out
    assert "1.00 points above the last capture" in printed.out


def test_several_runs_are_compared(report, scored_run, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(scored_run, other)
    status, printed = report(scored_run, other, "--text")
    assert status == 0
    assert "last capture" in printed.out
    status, _ = report(scored_run, other, "-o", tmp_path / "page")
    assert status == 0
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert names >= {"comparison.png", "other"}
    assert (tmp_path / "page" / "other" / "run.svg").exists()


def test_a_page_is_not_overwritten_without_force(report, scored_run, tmp_path):
    assert report(scored_run, "-o", tmp_path / "page")[0] == 0
    (tmp_path / "page" / "index.html").unlink()
    status, printed = report(scored_run, "-o", tmp_path / "page")
    assert status == 1
    assert "run.png: it exists already" in printed.err
    assert not (tmp_path / "page" / "index.html").exists()
    assert report(scored_run, "-o", tmp_path / "page", "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing", "--text"], 1, "missing: no such run"),
        (["."], 2, "Give either -o DIR"),
        ([".", "--text", "-o", "page"], 2, "Give either -o DIR"),
        ([], 2, "Missing argument"),
    ],
)
def test_mistakes_are_told(report, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    found, printed = report(*arguments)
    assert found == status
    assert message in printed.err


def test_report_loads_no_torch_and_opens_no_connection(scored_run, tmp_path):
    script = f"""
import socket, sys
socket.socket = None
from swa_tools.cli import run
assert run(["report", {str(scored_run)!r}, "-o", {str(tmp_path / "page")!r}]) == 0
assert "torch" not in sys.modules and "timm" not in sys.modules
"""
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    subprocess.run(
        [sys.executable, "-c", script], check=True, env=environment, stdout=subprocess.DEVNULL
    )
