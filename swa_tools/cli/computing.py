"""The device and the processes that a command computes on."""

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swa_tools.distributed import Distributed

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""

THRESHOLD_BYTES = 2**30


@contextlib.contextmanager
def computing(device: str) -> Iterator["Distributed"]:
    """Join the processes that torchrun started, like `distributed`, and tune memory on a CPU."""
    from swa_tools.distributed import distributed

    with distributed(device) as context:
        if context.device.type == "cpu" and platform.libc_ver()[0] == "glibc":
            _keep_freed_memory()
        yield context


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones.

    By default it returns blocks of 32 MB and more to the system, and each batch of activations then
    waits for new pages: a forward pass of a small network can take three times as long.
    """
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
    mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
