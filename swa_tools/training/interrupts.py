"""Signals that ask a run to stop: noted when they come, obeyed between two steps."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end of a job, and the warning that Slurm sends some time before it."""


@dataclasses.dataclass(slots=True)
class StopRequest:
    """The signal that came, if one did."""

    number: signal.Signals | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Note the signals that ask to stop; a second Ctrl-C interrupts at once.

    The earlier handlers are put back at the end. Outside of the main thread, where Python allows
    no handlers, nothing is noted.

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
