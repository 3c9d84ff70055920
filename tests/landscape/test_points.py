import math
import os
import threading

import numpy as np
import pytest

from swa_tools.errors import OutputError
from swa_tools.landscape.points import FIELDS, PointFile, PointScore

TASK = {"plane": ["xxh3-128:1"], "x": [0.5]}


def score(value, *, n=11):
    values = dict.fromkeys(FIELDS, float(value))
    return PointScore(**values, is_correct=np.arange(n) % 3 == 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plane.npz.points"


def begin(path, task=TASK):
    file = PointFile(path, task)
    file.begin()
    return file


def test_points_are_read_back_as_they_were(path):
    begin(path).add("a", score(0.1 + 0.2))
    begin(path).add("b", score(math.nan, n=0))
    found = PointFile(path, TASK).done
    assert list(found) == ["a", "b"]
    assert found["a"].train_loss == 0.1 + 0.2
    np.testing.assert_array_equal(found["a"].is_correct, score(0).is_correct)
    assert math.isnan(found["b"].test_error)
    assert len(found["b"].is_correct) == 0


def test_a_point_that_was_cut_off_does_not_count_and_spoils_no_other(path):
    file = begin(path)
    file.add("a", score(1))
    whole = path.read_bytes()
    file.add("b", score(2))
    full = path.read_bytes()
    for length in range(len(whole), len(full) - 1):
        path.write_bytes(full[:length])
        again = begin(path)
        assert list(again.done) == ["a"]
        again.add("c", score(3))
        assert list(PointFile(path, TASK).done) == ["a", "c"]


def test_a_head_that_was_cut_off_is_written_again(path):
    begin(path)
    head = path.read_bytes()
    for length in range(len(head) - 1):
        path.write_bytes(head[:length])
        begin(path).add("a", score(1))
        assert list(PointFile(path, TASK).done) == ["a"]


def test_points_of_other_work_are_refused(path):
    begin(path).add("a", score(1))
    with pytest.raises(OutputError, match="holds points of another picture"):
        PointFile(path, {**TASK, "x": [0.25]})


def test_writers_side_by_side_lose_nothing(path):
    begin(path)

    def work(rank):
        file = begin(path)
        for number in range(20):
            file.add(f"{rank}/{number}", score(number, n=5000))

    threads = [threading.Thread(target=work, args=[rank]) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(PointFile(path, TASK).done) == 80


def test_a_full_disk_is_an_error_and_no_point(path, monkeypatch):
    file = begin(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(OutputError, match="No space left"):
        file.add("a", score(1))
    monkeypatch.undo()
    assert file.done == {}
    assert PointFile(path, TASK).done == {}


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write this file: No such file"):
        begin(tmp_path / "missing" / "plane.npz.points")
