"""Ask a server for what will be read next, many parts of files at a time, in bounded memory."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Protocol

READ_AHEAD_BYTES = 256 << 20
"""The memory that everything takes which was asked for and is not used up, whatever the number of
files; a thread that is ahead of the others may ask for one request more. The memory of the process
stays below 600 MB, drivers included."""

REQUEST_BYTES = 8 << 20
"""Size of a request, unless so many files are read at once that their shares are smaller."""

MAX_REQUESTS = 32
"""How many requests are under way at once: 256 MB, each of 8."""

MIN_SHARE = 3
"""Requests that have to fit into a share: one that is used up, the next, and one on its way."""

GAP_BYTES = 1 << 16
"""What lies between two tensors is read too if it is not more than this."""


class Fetched(Protocol):
    """A file that is read ahead."""

    def fetch(self, start: int, end: int) -> bytes:
        """Return bytes of the file; called from several threads."""

    def use(self, ahead: "ReadAhead") -> None:
        """Take what is read from there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` to `end` of a file."""

    file: Fetched
    start: int
    end: int


@dataclasses.dataclass(slots=True, eq=False)
class _Request:
    """Bytes that are asked for together.

    Attributes:
        left: How many of them will still be read.
        data: The answer, from when it is asked for.
    """

    file: Fetched
    start: int
    end: int
    left: int
    data: Future[bytes] | None = None

    @property
    def n_bytes(self) -> int:
        return self.end - self.start


class ReadAhead:
    """Follows one order of reading, which may lead through several files.

    What is read out of this order is answered with 0: its reader has to ask for it itself.
    """

    def __init__(self, spans: Iterable[Span], *, share: int = 1) -> None:
        """Begin to ask.

        Args:
            spans: What will be read, in order; the reads within a few requests may be in any.
            share: How many such orders share `READ_AHEAD_BYTES`.
        """
        self._max_bytes = READ_AHEAD_BYTES // share
        size = max(1, min(REQUEST_BYTES, self._max_bytes // MIN_SHARE))
        self._waiting = collections.deque(_requests(spans, size))
        self._asked: list[_Request] = []
        self._asked_bytes = 0
        self._lock = threading.Lock()
        _LIVE.add(self)
        with self._lock:
            self._ask_for_more()

    def read(self, file: Fetched, position: int, buffer: memoryview) -> int:
        """Copy what is at hand at a position, or comes, to the buffer; return how much that is."""
        with self._lock:
            request = self._find(file, position)
        if request is None or request.data is None:
            return 0
        try:
            data = request.data.result()
        except CancelledError:
            return 0
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
            for ahead in list(_LIVE):  # or the other threads would wait for all of it
                ahead.close()
            raise
        part = memoryview(data)[position - request.start :][: len(buffer)]
        buffer[: len(part)] = part
        with self._lock:
            request.left -= len(part)
            if request.left <= 0:
                self._drop(request)
            self._ask_for_more()
        return len(part)

    def _find(self, file: Fetched, position: int) -> _Request | None:
        soon = itertools.islice(self._waiting, MAX_REQUESTS)
        for request in itertools.chain(self._asked, soon):
            if request.file is file and request.start <= position < request.end:
                break
        else:
            return None
        while request.data is None:  # a thread is ahead of the others
            self._ask_for_next()
        while self._asked_bytes > 2 * self._max_bytes and self._asked[0] is not request:
            self._drop(self._asked[0])  # it was not all read, and never will be
        return request

    def _ask_for_more(self) -> None:
        while self._waiting and len(self._asked) < MAX_REQUESTS:
            if self._asked and self._asked_bytes + self._waiting[0].n_bytes > self._max_bytes:
                break
            self._ask_for_next()

    def _ask_for_next(self) -> None:
        request = self._waiting.popleft()
        request.data = Future()
        _queue().put(request)
        self._asked.append(request)
        self._asked_bytes += request.n_bytes

    def _drop(self, request: _Request) -> None:
        if request in self._asked:
            self._asked.remove(request)
            self._asked_bytes -= request.n_bytes

    def close(self) -> None:
        """Ask for nothing more, and let nobody wait; who reads on asks for it himself."""
        with self._lock:
            self._waiting.clear()
            for request in self._asked:
                if request.data is not None:
                    request.data.cancel()
            self._asked, self._asked_bytes = [], 0


def _requests(spans: Iterable[Span], size: int) -> Iterator[_Request]:
    """Cut spans into requests; neighbours are asked for together."""
    current: _Request | None = None
    for span in spans:
        start = span.start
        while start < span.end:
            is_next = (
                current is not None
                and current.file is span.file
                and 0 <= start - current.end <= GAP_BYTES
                and start - current.start < size
            )
            if current is None or not is_next:
                if current is not None:
                    yield current
                current = _Request(span.file, start, start, 0)
            end = min(span.end, current.start + size)
            current.left += end - start
            current.end, start = end, end
    if current is not None:
        yield current


_LIVE: weakref.WeakSet[ReadAhead] = weakref.WeakSet()


@functools.cache
def _queue() -> queue.SimpleQueue[_Request]:
    """Return where the threads that ask take their work from; the end of Python ends them."""
    waiting: queue.SimpleQueue[_Request] = queue.SimpleQueue()
    for _ in range(MAX_REQUESTS):
        threading.Thread(target=_answer, args=(waiting,), name="read-ahead", daemon=True).start()
    return waiting


def _answer(waiting: queue.SimpleQueue[_Request]) -> None:
    while True:
        request = waiting.get()
        if request.data is None or request.data.cancelled():
            continue
        try:
            data = request.file.fetch(request.start, request.end)
        except BaseException as error:
            with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                request.data.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                request.data.set_result(data)
            del data  # or it stays until the next
        del request
