import math
from types import SimpleNamespace

import pytest
import torch

from swa_tools.distributed import single_process
from swa_tools.training.progress import LossLog, Stopwatch

CPU = single_process("cpu")


def test_means_over_the_window_and_the_epoch():
    log = LossLog(window=[1.0], epoch_loss=1.0)
    for value in (2.0, 6.0):
        log.add(torch.tensor(value))
    assert log.last is None
    assert log.collect(CPU) is None
    assert log.last == 6.0
    assert log.close_window() == 3.0
    log.add(torch.tensor(3.0))
    log.collect(CPU)
    assert log.close_window() == 3.0
    assert log.close_epoch(4) == 3.0
    assert log.epoch_loss == 0


@pytest.mark.parametrize(("bad", "steps_ago"), [(math.nan, 1), (math.inf, 1), (-math.inf, 1)])
def test_the_first_loss_that_is_not_finite_is_found(bad, steps_ago):
    log = LossLog(window=[], epoch_loss=0.0)
    for value in (1.0, bad, bad):
        log.add(torch.tensor(value))
    assert log.collect(CPU) == steps_ago


def test_nothing_new_is_nothing_to_collect():
    assert LossLog(window=[], epoch_loss=0.0).collect(CPU) is None


@pytest.fixture
def machine(monkeypatch):
    """Seconds and pages from the disk, as the test sets them."""
    found = SimpleNamespace(seconds=0.0, ru_majflt=0)
    monkeypatch.setattr("time.monotonic", lambda: found.seconds)
    monkeypatch.setattr("resource.getrusage", lambda _: found)
    return found


def test_waiting_for_data_is_told_when_it_is_most_of_the_time(machine):
    watch = Stopwatch()
    for _ in range(10):  # Validations in between do not hide it.
        with watch.waiting():
            machine.seconds += 8
        machine.seconds += 2
        watch.count(20)
        assert watch.images_per_second == 2
        with watch.paused():
            machine.seconds += 1000
    assert (watch.total_images, watch.total_seconds) == (200, 100)
    assert watch.stall() == "80 % of the time was spent waiting for data; try more --workers"
    assert watch.stall() is None
    machine.seconds += 100
    assert watch.stall() is None


def test_a_lack_of_memory_is_told(machine):
    watch = Stopwatch()
    for _ in range(2):
        machine.seconds += 20
        machine.ru_majflt += 20_000
        line = watch.stall()
    assert line is not None
    assert line.startswith("memory is short: 1,000 pages per second")
    machine.seconds += 40
    assert watch.stall() is None
