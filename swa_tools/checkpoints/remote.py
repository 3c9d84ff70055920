"""Files on servers: `hf://`, `s3://`, `gs://`, `az://`, `https://`, by URL.

Nothing is kept on disk, unless the URL asks for it in fsspec's own way:
`filecache::s3://bucket/epoch-1.safetensors`.
"""

import contextlib
import datetime as dt
import email.utils
import errno
import os
import posixpath
import re
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PosixPath
from typing import Any, Self, TypeVar

from swa_tools.checkpoints.read_ahead import MAX_REQUESTS, ReadAhead, Span
from swa_tools.checkpoints.servers import NotThereError, ask, filesystem, scheme_of
from swa_tools.errors import CheckpointError

T = TypeVar("T")
One = TypeVar("One")

URL = re.compile(r"(?:\w+::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)

FILE_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".json"})
"""What ends so is a file, without asking its server."""

RECENT_BYTES = 1 << 18
"""Least size of a read that was not announced; headers and directories are read in small steps."""

TIME_KEYS = re.compile(r"last-?_?modified|mtime|created", re.IGNORECASE)

VERSION_KEYS = re.compile(
    r"e-?tag|last-?_?modified|mtime|modified|created|generation|md5|blob_id|xet_hash|oid",
    re.IGNORECASE,
)
"""In what servers say of a file: what changes with its content."""


class RemotePath(PosixPath):
    """A URL in the place of a path.

    Its own methods ask the server; for functions of `os` there is no such file.
    """

    _url: str

    def __new__(cls, url: str) -> Self:
        """Keep the URL as it is, but for a `/` at the end where that says nothing."""
        self = super().__new__(cls, url)
        is_web = url.lower().startswith(("http://", "https://"))
        self._url = url if is_web else url.rstrip("/")
        return self

    def __str__(self) -> str:
        return self._url

    def __fspath__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __reduce__(self) -> Any:
        return RemotePath, (self._url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str | os.PathLike[str]) -> "RemotePath":
        base, question, query = self._url.partition("?") if self.is_web else (self._url, "", "")
        return RemotePath(f"{base.rstrip('/')}/{os.fspath(name)}{question}{query}")

    @property
    def is_web(self) -> bool:
        """Whether it is an address of the web, which may have a query and has no folders."""
        return scheme_of(self._url) in ("http", "https")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        url = self._url.partition("?")[0] if self.is_web else self._url
        return posixpath.basename(url.rstrip("/"))

    @property
    def parent(self) -> "RemotePath":
        """The folder that it lies in."""
        base, question, query = self._url.partition("?") if self.is_web else (self._url, "", "")
        scheme, separator, rest = base.partition("://")
        folder = posixpath.dirname(rest.rstrip("/")) or rest
        return RemotePath(f"{scheme}{separator}{folder}{question}{query}")

    @property
    def parents(self) -> Sequence["RemotePath"]:
        """The folders that it lies in, the innermost first."""
        found, folder = [self.parent], self.parent.parent
        while folder != found[-1]:
            found.append(folder)
            folder = folder.parent
        return found

    def with_name(self, name: str) -> "RemotePath":
        """Return another name in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Return the name with another end."""
        return self.with_name(self.stem + suffix)

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002, FBT001, FBT002  # as in Path
        """Return itself."""
        return self

    def absolute(self) -> Self:
        """Return itself."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002  # as in Path
        """Ask for size and time of modification (0 where the server does not say it)."""
        info = self.info()
        kind = stat.S_IFDIR if info.get("type") == "directory" else stat.S_IFREG
        time = _seconds(info)
        fields = (kind, 0, 0, 1, 0, 0, info.get("size") or 0, time, time, time)
        return os.stat_result(fields, {"st_mtime_ns": int(time * 1e9)})

    def info(self) -> dict[str, Any]:
        """Return what the server says of it.

        Raises:
            CheckpointError: There is no such file, no permission, or no answer.
        """
        fs, place = filesystem(self._url)

        def fresh() -> dict[str, Any]:
            fs.invalidate_cache()
            return dict(fs.info(place))

        return ask(self._url, fresh)

    def exists(self, **_: Any) -> bool:
        """Ask whether there is anything there."""
        try:
            self.info()
        except NotThereError:
            return False
        return True

    def is_file(self, **_: Any) -> bool:
        """Ask whether there is a file there."""
        try:
            return self.info().get("type") != "directory"
        except NotThereError:
            return False

    def is_dir(self, **_: Any) -> bool:
        """Tell whether it is a folder; on the web that is an address which ends in `/`."""
        if self.is_web:
            return self._url.endswith("/")
        if self.suffix.lower() in FILE_SUFFIXES:
            return False
        fs, place = filesystem(self._url)
        return bool(ask(self._url, lambda: fs.isdir(place)))

    def names(self) -> list[str]:
        """Return the names in a folder."""
        fs, place = filesystem(self._url)
        listed = ask(self._url, lambda: fs.ls(place, detail=False))
        return [posixpath.basename(str(one).rstrip("/")) for one in listed]

    def read_bytes(self) -> bytes:
        """Read all of a small file."""
        with RemoteFile(self) as file:
            data = bytearray(file.n_bytes)
            file.read_at(0, memoryview(data))
        return bytes(data)

    @property
    def is_pattern(self) -> bool:
        """Whether it is a glob; a `?` in an address of the web is not."""
        return bool(re.search(r"[*\[]" if self.is_web else r"[*?\[]", self._url))

    def matches(self) -> list["RemotePath"]:
        """Return what a pattern matches, in no order."""
        fs, place = filesystem(self._url)
        head = self._url[: URL.match(self._url).end()]  # type: ignore[union-attr]  # it is a URL
        found = ask(self._url, lambda: fs.glob(place))
        return [RemotePath(one if URL.match(one) else head + one.lstrip("/")) for one in found]

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Refuse; a folder of this name must not come to be on the disk."""
        raise OSError(errno.EOPNOTSUPP, "a folder on a server")

    def upload(self, file: Path) -> None:
        """Send a local file there, whole.

        Raises:
            CheckpointError: It cannot be written, or is not of the same size there.
        """
        fs, place = filesystem(self._url)
        ask(self._url, lambda: fs.put_file(str(file), place))
        size, expected = self.info().get("size"), file.stat().st_size
        if size != expected:
            raise CheckpointError(f"{self}: {expected} bytes were sent, {size} arrived; try again")


def as_path(path: str | Path) -> Path:
    """Return a path, or a URL in the place of one."""
    if isinstance(path, str) and URL.match(path):
        return RemotePath(path)
    return path if isinstance(path, RemotePath) else Path(path)


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


def in_parallel(function: Callable[[One], T], items: Sequence[One]) -> list[T]:
    """Call a function, which waits for a server, on several items at once; results in order."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), MAX_REQUESTS)) as pool:
        return list(pool.map(function, items))


def _seconds(info: dict[str, Any]) -> float:
    """Return the time of modification in what a server says of a file; 0 if it is not in it."""
    for key, value in info.items():
        if TIME_KEYS.fullmatch(key):
            if isinstance(value, str):
                with contextlib.suppress(ValueError):
                    return email.utils.parsedate_to_datetime(value).timestamp()
            if isinstance(value, dt.datetime):
                return value.timestamp()
    return 0.0


def _version(info: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in info.items() if VERSION_KEYS.fullmatch(key)}
