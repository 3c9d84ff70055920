"""A part of a file as a stream."""

import os

from swa_tools.checkpoints.files import Input

BUFFER_BYTES = 1 << 16

MAX_ITEM_BYTES = 1 << 28
"""Of one read: a string or array inside a pickle, the directory of an archive."""


class Window:
    """Bytes `start` to `end` of a file, read a buffer at a time; positions count from `start`.

    As much of a binary file as `read_pickle` and `zipfile` use. What a hostile file claims is never
    allocated before it has been seen to be there.
    """

    def __init__(self, file: Input, start: int, end: int) -> None:
        self._file = file
        self._start, self._end = start, end
        self._next = start  # the first byte that is not in the buffer
        self._buffer = b""
        self._used = 0

    def _fill(self, n_bytes: int) -> None:
        n_bytes = max(0, min(max(n_bytes, BUFFER_BYTES), self._end - self._next))
        more = bytearray(n_bytes)
        if more:
            self._file.read_at(self._next, memoryview(more))
        self._buffer = self._buffer[self._used :] + more
        self._used = 0
        self._next += n_bytes

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes, all that are left for -1, fewer at the end.

        Raises:
            ValueError: They are more than any part of a sound file has.
        """
        if n_bytes < 0:
            n_bytes = max(0, self._end - self._start - self.tell())
        if n_bytes > MAX_ITEM_BYTES:
            raise ValueError(f"one of its items claims {n_bytes:,} bytes")
        if self._used + n_bytes > len(self._buffer):
            self._fill(n_bytes)
        data = self._buffer[self._used : self._used + n_bytes]
        self._used += len(data)
        return data

    def readline(self) -> bytes:
        """Return the bytes up to the next newline, which is included.

        Raises:
            ValueError: They are more than any part of a sound file has.
        """
        while (end := self._buffer.find(b"\n", self._used)) < 0 and self._next < self._end:
            if len(self._buffer) - self._used > MAX_ITEM_BYTES:
                raise ValueError(f"one of its lines has over {MAX_ITEM_BYTES:,} bytes")
            self._fill(len(self._buffer) - self._used)  # doubled, so that all copies are one more
        stop = end + 1 if end >= 0 else len(self._buffer)
        line = self._buffer[self._used : stop]
        self._used = stop
        return line

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._next - len(self._buffer) + self._used - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, from the beginning, from here or from the end; return it.

        Raises:
            OSError: It is before the beginning.
        """
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._end - self._start}
        position = origins[whence] + offset
        if position < 0:
            raise OSError("before the beginning of the file")
        self._next, self._buffer, self._used = self._start + position, b"", 0
        return position
