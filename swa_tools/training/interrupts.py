"""Signals that ask a run to stop: noted on arrival, shared with all ranks, obeyed between steps."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from swa_tools.distributed import Distributed

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end of a job, and the warning that Slurm sends some time before it."""

LONGEST_STEPS = 10
"""The most steps between two votes. Not every step votes, because a vote takes a little time."""

LONGEST_SECONDS = 3.0
"""The most time between two votes: torchrun kills its processes 30 s after sending them a signal.
"""


@dataclasses.dataclass(slots=True)
class StopRequest:
    """The signal that arrived, if one did."""

    number: signal.Signals | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Note the signals that ask to stop; a second Ctrl-C interrupts at once.

    The earlier handlers are restored at the end. Outside the main thread, where Python allows no
    handlers, nothing is noted.

    Yields:
        Where the signal is noted.
    """
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = signal.Signals(number)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def agreed_signal(stop: StopRequest, context: Distributed) -> signal.Signals | None:
    """Return the signal that any rank got; all ranks must call this."""
    return next((number for number in context.gather(stop.number) if number is not None), None)


class Votes:
    """Shares what one rank may know before the others: a signal, or an overdue resume point.

    All ranks vote after the same steps; the first vote comes after the first step of a process.

    The interval follows the time that steps take. Every rank measures it and shares it with each
    vote, so that all ranks know the step of the next one.

    Args:
        context: The ranks.
        step: Optimizer steps completed.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, context: Distributed, *, step: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._clock = clock
        self._last = (step, clock())
        self._next_step = step + 1

    def is_due(self, step: int) -> bool:
        """Tell whether the ranks vote after a step; a single rank never needs to."""
        return self._context.world_size > 1 and step >= self._next_step

    def vote(
        self, step: int, *, number: signal.Signals | None, is_overdue: bool
    ) -> tuple[signal.Signals | None, bool]:
        """Return the signal that a rank got, and whether a resume point is overdue on rank 0.

        Between two votes of several ranks this is (None, False).
        """
        if self._context.world_size == 1:
            return number, is_overdue
        if not self.is_due(step):
            return None, False
        last_step, last_time = self._last
        now = self._clock()
        seconds = (now - last_time) / max(1, step - last_step)
        votes = self._context.gather((number, is_overdue, seconds))
        slowest = max(seconds for _, _, seconds in votes)
        n_steps = int(min(LONGEST_STEPS, max(1, LONGEST_SECONDS / max(slowest, 1e-9))))
        # At multiples, as records are: these steps wait for the device anyway.
        self._next_step = (step // n_steps + 1) * n_steps
        self._last = (step, self._clock())
        return next((number for number, _, _ in votes if number is not None), None), votes[0][1]
