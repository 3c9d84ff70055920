import json
import shutil

import pytest

from swa_tools.records import Record, append_records
from swa_tools.report.runs import load_run, load_runs


@pytest.fixture
def chain(write_run, tmp_path):
    """Write runs that continue one another: of 4 epochs from weights `d0`, of 3, and of 2."""

    def write(name, *, n_epochs, start, end, **options):
        folder = write_run(name, n_cycles=n_epochs, **options)
        metrics = folder / "metrics.jsonl"
        metrics.write_text(metrics.read_text().replace('"digest": "d0"', f'"digest": "{start}"'))
        last = Record(event="evaluation", digest=end, epoch=float(n_epochs), top1=60.0)
        append_records(metrics, [last])
        return folder

    return [
        write("one", n_epochs=4, start="d0", end="d4"),
        write("two", n_epochs=3, start="d4", end="d7", from_run=str(tmp_path / "one")),
        write("three", n_epochs=2, start="d7", end="d9", from_run=str(tmp_path / "two")),
    ]


def test_a_run_from_the_beginning_continues_none(chain):
    run = load_run(chain[0])
    assert run.earlier is None
    assert (run.epochs_before, run.epochs_in_all, run.origin) == (0.0, 4.0, "d0")


def test_epochs_of_all_runs_before_are_counted(chain):
    run = load_run(chain[2])
    assert (run.epochs_before, run.epochs_in_all, run.origin) == (7.0, 9.0, "d0")


def test_what_the_description_says_needs_no_folder(chain):
    described = {
        "n_epochs": 3.0,
        "start_digest": "d4",
        "options": {"seed": 0},
        "earlier": {"n_epochs": 40, "start_digest": "d-36", "options": {}, "earlier": None},
    }
    path = chain[2] / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "earlier": described}))
    shutil.rmtree(chain[1])
    run = load_run(chain[2])
    assert (run.epochs_before, run.epochs_in_all, run.origin) == (43.0, 45.0, "d-36")


def test_runs_that_were_moved_together_are_found(chain, tmp_path):
    (tmp_path / "moved").mkdir()
    moved = [folder.rename(tmp_path / "moved" / folder.name) for folder in chain]
    assert load_run(moved[2]).epochs_in_all == 9.0


def test_runs_of_the_report_are_found_wherever_they_are(chain, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = chain[0].rename(tmp_path / "elsewhere" / "one")
    assert load_run(chain[1]).epochs_in_all is None
    assert load_runs([chain[1], moved])[0].epochs_in_all == 7.0


def test_a_run_with_another_end_is_not_the_one_that_was_continued(chain):
    metrics = chain[1] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("d7", "x7"))
    run = load_run(chain[2])
    assert run.earlier is not None
    assert (run.epochs_before, run.epochs_in_all, run.origin) == (None, None, None)


def test_a_run_that_was_continued_before_its_end_counts_to_there(chain):
    metrics = chain[0] / "metrics.jsonl"
    append_records(metrics, [Record(event="evaluation", digest="d6", epoch=6.0, top1=60.0)])
    assert load_run(chain[1]).epochs_before == 4.0


def test_runs_that_claim_to_continue_one_another_are_read(chain):
    for folder, other in ((chain[0], chain[1]), (chain[1], chain[0])):
        path = folder / "run.json"
        document = json.loads(path.read_text())
        document["options"]["from_run"] = str(other)
        path.write_text(json.dumps(document))
        (folder / "metrics.jsonl").write_text('{"event": "step", "epoch": 3.0}\n')
    assert load_run(chain[0]).epochs_in_all is None


@pytest.mark.parametrize("earlier", [{}, {"n_epochs": "x", "start_digest": 3, "options": []}])
def test_a_poor_description_of_the_earlier_run_is_enough(chain, earlier):
    path = chain[2] / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "earlier": earlier}))
    assert load_run(chain[2]).epochs_in_all is None
