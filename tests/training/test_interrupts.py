import signal

import pytest

from swa_tools.distributed import single_process
from swa_tools.training.interrupts import Votes


class Ranks:
    """Stands in for several ranks: every other one votes with what it is told here."""

    def __init__(self, *others):
        self.others = others
        self.world_size = 1 + len(others)

    def gather(self, vote):
        return [vote, *self.others]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def votes(*, seconds, n_steps, others=((None, False, 0.0),), first_step=1):
    """Return the steps that are voted in when each takes so many seconds."""
    clock = Clock()
    ballot = Votes(Ranks(*others), step=first_step - 1, clock=clock)
    steps = []
    for step in range(first_step, first_step + n_steps):
        clock.now += seconds
        if ballot.is_due(step):
            steps.append(step)
        ballot.vote(step, number=None, is_overdue=False)
    return steps


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.01, [1, 10, 20, 30]),
        (0.5, [1, 6, 12, 18, 24, 30]),
        (1.2, [1, *range(2, 31, 2)]),
        (20.0, list(range(1, 31))),
    ],
)
def test_the_interval_follows_the_time_of_a_step(seconds, expected):
    assert votes(seconds=seconds, n_steps=30) == expected


def test_the_slowest_rank_decides_on_every_rank():
    assert votes(seconds=0.01, n_steps=12, others=[(None, False, 1.5)]) == [1, *range(2, 13, 2)]


def test_the_first_vote_is_after_the_first_step_of_a_process():
    assert votes(seconds=0.01, n_steps=10, first_step=17) == [17, 20]


def test_a_signal_of_any_rank_counts_and_the_clock_of_rank_0():
    ranks = Ranks((None, True, 0.0), (signal.SIGUSR1, True, 0.0))
    ballot = Votes(ranks, step=0)
    assert ballot.vote(1, number=None, is_overdue=False) == (signal.SIGUSR1, False)


def test_between_two_votes_a_signal_waits():
    ballot = Votes(Ranks((None, False, 0.0)), step=0)
    ballot.vote(1, number=None, is_overdue=False)
    assert ballot.vote(2, number=signal.SIGTERM, is_overdue=True) == (None, False)


def test_one_process_needs_no_vote():
    ballot = Votes(single_process("cpu"), step=0)
    assert not ballot.is_due(1)
    for step in (1, 2):
        assert ballot.vote(step, number=signal.SIGINT, is_overdue=True) == (signal.SIGINT, True)
