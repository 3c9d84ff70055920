"""The device and the processes that a command computes on."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from swa_tools.batchnorm.options import BnOptions
from swa_tools.cli.declared import taken
from swa_tools.cli.output import listening
from swa_tools.data.options import ImageSource
from swa_tools.evaluation.options import EvaluationOptions
from swa_tools.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from swa_tools.distributed import Distributed
    from swa_tools.selection import Setting

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


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for work that needs no torch in one process."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    from swa_tools.distributed import distributed

    with distributed("cpu") as context:
        yield context


@contextlib.contextmanager
def setting_of(given: Mapping[str, Any]) -> Iterator["Setting"]:
    """Give what averages are made ready with, from all parameters of a command, where it computes.

    Its images, statistics and scores are those of `ImageSource`, `BnOptions`, `EvaluationOptions`.
    """
    from swa_tools.data import open_split
    from swa_tools.selection import Setting

    evaluation = taken(EvaluationOptions, given)
    with computing(evaluation.device) as context:
        yield Setting(
            train=open_split("train", taken(ImageSource, given)),
            bn=taken(BnOptions, given),
            evaluation=evaluation,
            context=context,
            listener=listening(context),
        )


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones.

    By default it returns blocks of 32 MB and more to the system, and each batch of activations then
    waits for new pages: a forward pass of a small network can take three times as long.
    """
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
    mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
