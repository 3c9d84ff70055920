import math

import pytest
import torch

from swa_tools.distributed import single_process
from swa_tools.training.losses import LossLog
from swa_tools.training.progress import Stopwatch

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


def test_waiting_for_data_is_told_when_it_is_most_of_the_time(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = Stopwatch()
    for _ in range(10):
        with watch.waiting():
            now += 8
        now += 2
        watch.count(20)
    assert watch.images_per_second == 2
    assert watch.stall() == "80 % of the time waiting for data; try --workers"
    with watch.paused():
        now += 1000
    assert (watch.total_images, watch.total_seconds) == (200, 100)
    assert watch.stall() is None
    now += 100
    assert watch.stall() is None
