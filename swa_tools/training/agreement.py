"""What one rank may know before the others: a signal that came, a resume point that is overdue."""

import signal
import time
from collections.abc import Callable

from swa_tools.distributed import Distributed

LONGEST_STEPS = 10
"""Steps between two votes, at most: a vote costs a little."""

LONGEST_SECONDS = 3.0
"""Time between two votes: torchrun kills its processes 30 s after it has sent them a signal."""


class Agreement:
    """Votes of the ranks, all in the same steps: the first after the first step of a process.

    The interval follows the time that steps take, measured on every rank and told with each vote,
    so that all of them know the step of the next one.

    Args:
        context: The ranks.
        step: Optimizer steps completed.
        clock: Seconds.
    """

    def __init__(
        self, context: Distributed, *, step: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._clock = clock
        self._last = (step, clock())
        self._next_step = step + 1

    def is_due(self, step: int) -> bool:
        """Tell whether several ranks vote after a step; one alone has nobody to ask."""
        return self._context.world_size > 1 and step >= self._next_step

    def vote(
        self, step: int, *, number: signal.Signals | None, is_overdue: bool
    ) -> tuple[signal.Signals | None, bool]:
        """Return the signal that a rank got, and whether rank 0 finds a resume point overdue.

        Between two votes of several ranks it is neither.
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
        # In the steps of the records, which wait for the device anyway.
        self._next_step = (step // n_steps + 1) * n_steps
        self._last = (step, self._clock())
        return next((number for number, _, _ in votes if number is not None), None), votes[0][1]
