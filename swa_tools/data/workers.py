"""Decoding in other processes: lists of images in, batches of pixels out.

torch's DataLoader runs the processes. It is asked for whole batches, each described by a `Task`. So
the processes keep no list of images, no epoch and no random state, and each gives the same pixels
for the same task.
"""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from swa_tools.errors import DataError

MOST_WORKERS_GPU, MOST_WORKERS_CPU = 16, 4

LOST_WORKER = ("DataLoader worker", "Too many open files")
"""How torch's errors about its processes begin; errors raised inside them begin differently."""

NO_SHARED_MEMORY = ("shared memory", "unable to resize file </torch", "unable to mmap")
"""Found in torch's errors about a process that cannot hand its images over."""


class View(Protocol):
    """Turns an opened image into uint8 pixels `(image_size, image_size, 3)`."""

    @property
    def image_size(self) -> int:
        """Height and width, in pixels."""

    def __call__(self, image: Image.Image, *, epoch: int, index: int) -> torch.Tensor:
        """Return the pixels."""


class Task(NamedTuple):
    """One batch to decode.

    Attributes:
        epoch: For the augmentation.
        indices: Positions of the images in their set, int64 `(N,)`.
        paths: Paths of the images, as `ImageSet.open` takes them.
    """

    epoch: int
    indices: np.ndarray
    paths: tuple[str, ...]


class Decoded(NamedTuple):
    """The images of a task that could be read.

    Attributes:
        pixels: uint8 `(N, size, size, 3)`.
        indices: Positions of these images in their set, int64 `(N,)`.
        bad: Path of each image that could not be read, and the reason.
    """

    pixels: torch.Tensor
    indices: torch.Tensor
    bad: tuple[tuple[str, str], ...]


class Decoder(Dataset[Decoded]):
    """Decodes tasks; every worker process gets a copy.

    Args:
        open_image: As `ImageSet.open`.
        view: Turns an image into the pixels of the input.
    """

    def __init__(self, open_image: Callable[[str], Image.Image], view: View) -> None:
        self.open_image = open_image
        self.view = view

    def __getitem__(self, task: Task) -> Decoded:
        """Decode a task. Unreadable images are reported in the result, not raised."""
        views: list[torch.Tensor] = []
        good: list[int] = []
        bad: list[tuple[str, str]] = []
        with warnings.catch_warnings():
            # Pillow warns about odd metadata and palettes; the libraries' loaders give the same
            # image.
            warnings.simplefilter("ignore")
            for index, path in zip(task.indices.tolist(), task.paths, strict=True):
                try:
                    with self.open_image(path) as image:
                        views.append(self.view(image, epoch=task.epoch, index=index))
                except Exception as error:  # Pillow raises many kinds on damaged files.
                    bad.append((path, _reason(error)))
                else:
                    good.append(index)
        return Decoded(
            # In a worker this puts them into shared memory at once.
            pixels=default_collate(views) if views else self._nothing(),
            indices=torch.tensor(good, dtype=torch.int64),
            bad=tuple(bad),
        )

    def _nothing(self) -> torch.Tensor:
        size = self.view.image_size
        return torch.empty((0, size, size, 3), dtype=torch.uint8)


class DecodingPool:
    """Worker processes that decode tasks in order; they live as long as this object.

    Only one iteration runs at a time. Leaving it early wastes the batches already under way.

    Args:
        decoder: Decodes a task; copied to the processes.
        workers: Number of processes; 0 to decode in this one.
        pin_memory: Whether batches lie in pinned memory, for transfers to a GPU.
    """

    def __init__(self, decoder: Decoder, *, workers: int, pin_memory: bool) -> None:
        self._decoder = decoder
        self._workers = workers
        self._pin_memory = pin_memory
        self._tasks = _Tasks()
        self._loader: DataLoader[Decoded] | None = None

    def decode(self, tasks: Iterable[Task]) -> Generator[Decoded]:
        """Yield the result of every task, in order.

        Raises:
            DataError: A worker process has died. It is noticed within about five seconds.
            RuntimeError: Another iteration has begun in the meantime and taken the workers.
        """
        self._tasks.current = tasks
        try:
            for decoded in self._start():
                yield decoded
                if self._tasks.current is not tasks:
                    raise RuntimeError(
                        "another iteration of this loader has begun; finish one before the next"
                    )
        except (RuntimeError, EOFError, OSError) as error:
            # torch reports a lost worker; fetching what it left behind fails like a connection.
            # Images that cannot be read do not raise here.
            self.close()
            if self._workers == 0 or not _is_of_workers(error):
                raise
            raise DataError(
                f"a process that loads images has failed ({_reason(error)}); it may have run out"
                " of memory, of shared memory (/dev/shm) or of open files (ulimit -n): try fewer"
                " --workers or a smaller --batch-size"
            ) from error

    def close(self) -> None:
        """End the workers; the next `decode` starts new ones."""
        self._loader = None

    def _start(self) -> Iterator[Decoded]:
        if self._loader is None:
            self._loader = DataLoader(
                self._decoder,
                batch_size=None,
                sampler=self._tasks,
                num_workers=self._workers,
                persistent_workers=self._workers > 0,
                pin_memory=self._pin_memory,
                collate_fn=_unchanged,
                worker_init_fn=_leave_process_group,
                # The loader draws from its generator; without one, from torch's global one.
                generator=torch.Generator(),
            )
        with _same_child_handler(), warnings.catch_warnings():
            # From Python 3.12 on, forking warns about threads; the workers do not use torch's.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            return iter(self._loader)


class _Tasks:
    """The tasks of the current iteration, in place of DataLoader's sampler."""

    def __init__(self) -> None:
        self.current: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.current)


def default_workers(device: torch.device) -> int:
    """Return how many worker processes suit this machine, for each process that computes.

    With a GPU: one per core that falls to this process, up to 16. On a CPU, whose cores the network
    needs itself: one per two cores, up to 4.
    """
    if hasattr(os, "sched_getaffinity"):
        n_cores = len(os.sched_getaffinity(0))
    else:
        n_cores = os.cpu_count() or 1
    n_cores = max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if device.type == "cuda":
        return min(n_cores, MOST_WORKERS_GPU)
    return min(max(1, n_cores // 2), MOST_WORKERS_CPU)


@contextlib.contextmanager
def _same_child_handler() -> Iterator[None]:
    """Keep the handler of SIGCHLD as it was before DataLoader starts.

    DataLoader sets one that, when a worker dies, raises RuntimeError wherever the main program
    happens to be, such as in the middle of an optimizer's step or of writing a file. Without it the
    death is noticed where the program waits for the worker's images.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield  # Python cannot set this handler again; elsewhere DataLoader sets none.
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _leave_process_group(worker: int) -> None:  # noqa: ARG001 -- DataLoader passes it
    """Take this worker out of reach of signals to the whole process group.

    The main process decides what Ctrl-C or a scheduler's signal means, and may want some more
    batches before it stops. Workers end when it ends them, or within seconds of its death.
    """
    os.setpgrp()


def _unchanged(decoded: Any) -> Any:
    return decoded


def _is_of_workers(error: Exception) -> bool:
    """Tell whether an error is about the worker processes themselves."""
    text = str(error)
    return (
        not isinstance(error, RuntimeError)
        or text.startswith(LOST_WORKER)
        or any(sign in text for sign in NO_SHARED_MEMORY)
    )


def _reason(error: Exception) -> str:
    """Return the error's first line, or its last one where torch wraps a worker's traceback."""
    lines = str(error).splitlines() or [""]
    return lines[-1 if lines[0].startswith("Caught ") else 0] or type(error).__name__
