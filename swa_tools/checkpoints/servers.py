"""Servers, through fsspec: the driver for a kind of URL, new tries, errors in one line.

fsspec comes with torch, and huggingface_hub, which reads `hf://`, with timm; the other kinds need a
driver. All of them are imported when a URL is given, and not before.
"""

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from swa_tools.checkpoints.read_ahead import MAX_REQUESTS
from swa_tools.errors import CheckpointError

T = TypeVar("T")

DRIVERS = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
}
"""The package on PyPI that reads each kind of URL."""

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each new try where a connection fails."""

RETRYING = frozenset(DRIVERS) - {"http", "https"}
"""Whose drivers try again themselves before they give up."""

LOGGERS = ("aiobotocore", "azure", "botocore", "fsspec", "gcsfs", "s3fs")
"""Where drivers write what goes wrong; the error here says it in one line."""

SECONDS_OF_SILENCE = 60
"""After which a connection counts as failed."""


class NotThereError(CheckpointError):
    """The server has no such file."""


def scheme_of(url: str) -> str:
    """Return what stands before `://`, without the caches that are asked for before it."""
    return url.partition("://")[0].rpartition("::")[2].lower()


@functools.cache
def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL and its name for the file."""
    scheme = scheme_of(url)
    _keep_from_stderr()
    try:
        from fsspec.core import url_to_fs

        options = _options(scheme)
        is_chain = "::" in url.partition("://")[0]
        fs, place = url_to_fs(url, **({scheme: options} if is_chain else options))
        return fs, str(place)
    except ImportError as error:
        package = DRIVERS.get(scheme)
        if package is None:
            raise CheckpointError(f"{url}: {_one_line(error)}") from error
        raise CheckpointError(
            f"{url}: {scheme}:// needs the package {package}: pip install {package}"
        ) from error
    except Exception as error:
        expected = "hf://, s3://, gs://, az:// or https://"
        raise CheckpointError(f"{url}: {_one_line(error)}; expected {expected}") from error


@functools.cache
def _keep_from_stderr() -> None:
    for name in LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("http", "https"):
        from fsspec.implementations import http

        timeout = http.aiohttp.ClientTimeout(
            total=None, sock_connect=SECONDS_OF_SILENCE, sock_read=SECONDS_OF_SILENCE
        )
        return {"client_kwargs": {"timeout": timeout, "read_bufsize": 1 << 20}}
    if scheme in ("s3", "s3a"):
        return {"config_kwargs": {"max_pool_connections": 2 * MAX_REQUESTS}}  # 10 by default
    return {}


def ask(url: str, call: Callable[[], T], *, closed: threading.Event | None = None) -> T:
    """Call what asks a server; try again where the connection fails, until `closed` is set.

    Raises:
        CheckpointError: It cannot be had, in one line.
    """
    for n_tries in itertools.count(1):
        try:
            return call()
        except CheckpointError:
            raise
        except Exception as error:
            found = _final_error(url, error)
            if found is not None:
                raise found from error
            if n_tries > (1 if scheme_of(url) in RETRYING else len(PAUSES)):
                raise CheckpointError(
                    f"{url}: the connection failed {n_tries} times: {_one_line(_root(error))}"
                ) from error
            if (closed or threading.Event()).wait(PAUSES[n_tries - 1]):
                raise CheckpointError(f"{url}: closed") from error
    raise AssertionError  # count does not end


def _final_error(url: str, error: Exception) -> CheckpointError | None:
    """Return what no new try can change; None where the connection failed."""
    causes = list(_causes(error))
    status = next((s for s in map(_status, causes) if s is not None), None)
    if status in (401, 403) or (status is None and isinstance(_root(error), PermissionError)):
        return CheckpointError(f"{url}: no permission ({_one_line(_root(error))})")
    if status in (404, 410) or (status is None and isinstance(_root(error), FileNotFoundError)):
        return NotThereError(f"{url}: no such file")
    names = {type(one).__name__ for one in causes}
    if names & {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}:
        return CheckpointError(f"{url}: no permission ({_one_line(_root(error))})")
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        return CheckpointError(f"{url}: its server refuses: {_one_line(_root(error))}")
    if isinstance(error, NotImplementedError | TypeError | ValueError | AttributeError):
        return CheckpointError(f"{url}: {_one_line(error) or type(error).__name__}")
    return None


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _root(error: BaseException) -> BaseException:
    *_, root = _causes(error)
    return root


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of aiohttp, botocore, azure or huggingface_hub."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {})
        found = response.get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
    for name in ("status", "status_code"):
        found = getattr(error, name, None) if found is None else found
    return found if isinstance(found, int) else None


def _one_line(error: BaseException) -> str:
    return " ".join(f"{error}".split())[:200] or type(error).__name__
