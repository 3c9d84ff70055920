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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PosixPath
from typing import Any, Self, TypeVar

from swa_tools.checkpoints.read_ahead import MAX_REQUESTS
from swa_tools.checkpoints.servers import NotThereError, ask, filesystem, scheme_of
from swa_tools.errors import CheckpointError

T = TypeVar("T")
One = TypeVar("One")

URL = re.compile(r"(?:\w+::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)

FILE_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".json"})
"""What ends so is a file, without asking its server."""

TIME_KEYS = re.compile(r"last-?_?modified|mtime|created", re.IGNORECASE)


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
        fs, place = filesystem(self._url)
        return ask(self._url, lambda: bytes(fs.cat_file(place)))

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
