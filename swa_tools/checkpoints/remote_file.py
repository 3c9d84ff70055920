"""Files on servers, read by ranges."""

import re
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Self

from swa_tools.checkpoints.read_ahead import ReadAhead, Span
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.checkpoints.servers import ask, filesystem
from swa_tools.errors import CheckpointError

RECENT_BYTES = 1 << 18
"""Least size of a read that was not announced; headers and directories are read in small steps."""

VERSION_KEYS = re.compile(
    r"e-?tag|last-?_?modified|mtime|modified|created|generation|md5|blob_id|xet_hash|oid",
    re.IGNORECASE,
)
"""In what servers say of a file: what changes with its content."""


class RemoteFile:
    """A file on a server, opened for reading by ranges; has what `InputFile` has.

    Attributes:
        path: Its URL.
        n_bytes: Its size when it was opened.

    Raises:
        CheckpointError: There is no such file, no permission, or no answer.
    """

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self._fs, self._place = filesystem(str(path))
        info = path.info()
        size = info.get("size")
        if info.get("type") == "directory":
            raise CheckpointError(f"{path}: it is a folder, expected a file")
        if size is None or info.get("partial") is False:
            raise CheckpointError(
                f"{path}: its server does not send parts of a file; download it first"
            )
        self.n_bytes = int(size)
        self._version = _version(info)
        self._ahead: ReadAhead | None = None
        self._recent: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_at(self, position: int, buffer: memoryview) -> None:
        """Fill the buffer from a position on, of what was read ahead, or else by asking for it.

        Raises:
            CheckpointError: The file ends too early, or its server fails.
        """
        while buffer:
            n_read = self._ahead.read(self, position, buffer) if self._ahead else 0
            if not n_read:
                n_read = self._read_now(position, buffer)
            position, buffer = position + n_read, buffer[n_read:]

    def _read_now(self, position: int, buffer: memoryview) -> int:
        for start, data in self._recent:
            if start <= position < start + len(data):
                part = data[position - start : position - start + len(buffer)]
                buffer[: len(part)] = part
                return len(part)
        if len(buffer) >= RECENT_BYTES:
            buffer[:] = self.fetch(position, position + len(buffer))
            return len(buffer)
        with self._lock:
            start = min(position, max(0, self.n_bytes - RECENT_BYTES))
            data = self.fetch(start, max(position + 1, min(start + RECENT_BYTES, self.n_bytes)))
            self._recent = [*self._recent[-1:], (start, data)]
        return self._read_now(position, buffer)

    def fetch(self, start: int, end: int) -> bytes:
        """Ask for bytes `start` to `end`, until they come.

        Raises:
            CheckpointError: They do not come.
        """
        if end > self.n_bytes:
            raise CheckpointError(f"{self.path}: it has only {self.n_bytes} bytes; is it cut off?")
        if self._closed.is_set():
            raise CheckpointError(f"{self.path}: it was closed while it was read")
        # What is not asynchronous opens a file for each request, and must not read more than that.
        options = {} if self._fs.async_impl else {"cache_type": "none"}

        def call() -> bytes:
            data = self._fs.cat_file(self._place, start=start, end=end, **options)
            if len(data) > end - start:
                raise CheckpointError(
                    f"{self.path}: its server does not send parts of a file; download it first"
                )
            if len(data) < end - start:
                raise ConnectionError(f"{len(data)} of {end - start} bytes came")
            return bytes(data)

        return ask(str(self.path), call, closed=self._closed)

    def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Read ahead what will be read next: bytes start to end, in this order."""
        read_ahead([Span(self, start, end) for start, end in spans])

    def use(self, ahead: ReadAhead) -> None:
        """Read from what is read ahead; what was kept of earlier reads is dropped."""
        if self._ahead is not None and self._ahead is not ahead:
            self._ahead.close()
        self._ahead, self._recent = ahead, []

    def check_unchanged(self) -> None:
        """Raise CheckpointError if its size, ETag or time of modification is not what it was."""
        info = self.path.info()
        if (info.get("size"), _version(info)) != (self.n_bytes, self._version):
            raise CheckpointError(
                f"{self.path}: it changed while it was read ({self.n_bytes} bytes before,"
                f" {info.get('size')} after); wait until its writer is done"
            )

    def close(self) -> None:
        """Ask for nothing any more, and let go of what was read ahead."""
        self._closed.set()
        if self._ahead is not None:
            self._ahead.close()
        self._ahead, self._recent = None, []


def read_ahead(spans: Sequence[Span], *, share: int = 1) -> None:
    """Read ahead in the files of the spans, in their order.

    Args:
        spans: What will be read, each once.
        share: How many such orders are followed at the same time; they share the memory.
    """
    if spans:
        ahead = ReadAhead(spans, share=share)
        for file in {id(span.file): span.file for span in spans}.values():
            file.use(ahead)


def _version(info: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in info.items() if VERSION_KEYS.fullmatch(key)}
