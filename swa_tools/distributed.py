"""The environment that torchrun sets, as one context manager, and sums across its processes.

Every collective of the package goes through `Distributed`. So one process and many run the same
code, and a lost process gives one clear line instead of a traceback.
"""

import contextlib
import dataclasses
import datetime as dt
import os
import time
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from swa_tools.errors import SwaToolsError

T = TypeVar("T")

TIMEOUT = dt.timedelta(hours=1)
"""How long a process waits for the others, while rank 0 may be reading or writing large files."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Distributed:
    """This process among the others of the job.

    Attributes:
        rank: Number of this process among all, from 0.
        world_size: Number of processes.
        local_rank: Number of this process on its machine, from 0; also the number of its GPU.
        device: Where this process computes.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of the tensor over all ranks, in its own dtype; the tensor is not changed.

        Integers are added exactly. All ranks must call this with the same shape and dtype.
        """
        if self.world_size == 1:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with self._collective("sum"):
            dist.all_reduce(total)
        return total

    def gather(self, value: T) -> list[T]:
        """Return the picklable value of every rank, in order of rank. All ranks must call this."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self._collective("gather"):
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return the picklable value of rank 0 on every rank. All ranks must call this."""
        if self.world_size == 1:
            return value
        values: list[Any] = [value]
        with self._collective("broadcast"):
            dist.broadcast_object_list(values, src=0)
        received: T = values[0]
        return received

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    @contextlib.contextmanager
    def _collective(self, name: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise SwaToolsError(
                f"rank {self.rank} of {self.world_size}: lost the other processes in a {name}"
                f" ({_first_line(error)}); look for the first error above this one"
            ) from error


@contextlib.contextmanager
def distributed(device: str = "auto") -> Iterator[Distributed]:
    """Join the processes that torchrun started; without torchrun, be the only one.

    Reads `RANK`, `WORLD_SIZE` and `LOCAL_RANK`. Tensors on a GPU travel over NCCL, everything
    else over gloo. A process group that is created here is destroyed at the end; an existing group
    is used and left alone.

    Args:
        device: `auto` (the GPU of the local rank, else MPS, else the CPU), or a torch device.

    Raises:
        SwaToolsError: The environment is inconsistent, the device is missing, or the processes do
            not find each other.
    """
    rank = _environment_number("RANK", 0)
    world_size = _environment_number("WORLD_SIZE", 1)
    local_rank = _environment_number("LOCAL_RANK", 0)
    joined = dist.is_available() and dist.is_initialized()
    if joined:
        rank, world_size = dist.get_rank(), dist.get_world_size()
    if not 0 <= rank < world_size:
        raise SwaToolsError(
            f"the environment is inconsistent: expected 0 <= RANK < WORLD_SIZE, found RANK={rank},"
            f" WORLD_SIZE={world_size}; start with torchrun, or unset both"
        )
    context = Distributed(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        device=_rank_device(device, local_rank=local_rank, world_size=world_size),
    )
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    if joined or world_size == 1:
        yield context
    else:
        with _process_group(context):
            yield context


@contextlib.contextmanager
def _process_group(context: Distributed) -> Iterator[None]:
    is_cuda = context.device.type == "cuda"
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
            store=_store(context),
            rank=context.rank,
            world_size=context.world_size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise SwaToolsError(
            f"rank {context.rank} of {context.world_size}: the processes do not find each other"
            f" ({_first_line(error)}); start with torchrun"
        ) from error
    try:
        yield
    except BaseException:
        # Leaving NCCL waits for the other ranks, which may wait for this one; leaving gloo does
        # not.
        if not is_cuda:
            _leave()
        raise
    _leave()


def _leave() -> None:
    """Take this process out of its group."""
    # torch 2.6 holds Python's lock while it waits for gloo's threads to end, and one of them may
    # need that lock to release the last collective's tensors. The pause gives it time to do so.
    # Newer versions (2.15) do not need it.
    time.sleep(0.1)
    dist.destroy_process_group()


def _store(context: Distributed) -> Store:
    """Return the store by which the ranks find each other.

    torchrun keeps one store across restarts, and some versions of torch (2.15) reuse the keys in
    it: without a prefix, a restarted rank finds the address of a process that has died.
    """
    found = rendezvous("env://", context.rank, context.world_size, timeout=TIMEOUT)
    store, _, _ = next(iter(found))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"attempt-{attempt}", store)


def single_process(device: str = "auto") -> Distributed:
    """Return the context of a single process, whatever the environment says.

    Raises:
        SwaToolsError: The device is missing.
    """
    return Distributed(device=_rank_device(device, local_rank=0, world_size=1))


def float64_device(device: torch.device) -> torch.device:
    """Return the device if it computes in float64, else the CPU (MPS has no float64)."""
    return torch.device("cpu") if device.type == "mps" else device


@contextlib.contextmanager
def clear_memory_errors(device: torch.device) -> Iterator[None]:
    """Turn the error of a GPU that runs out of memory in a forward pass into one line.

    Raises:
        SwaToolsError: The GPU is out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SwaToolsError(
            f"device {device} is out of memory; try a smaller --batch-size, or fewer models at once"
        ) from error


def amp_dtype(
    amp: Literal["auto", "bf16", "fp16", "off"], device: torch.device
) -> torch.dtype | None:
    """Return the dtype of mixed precision on a device; None for full precision.

    `auto` means bfloat16 on GPUs that support it, else full precision.
    """
    if amp == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[amp]


def _rank_device(name: str, *, local_rank: int, world_size: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and world_size == 1 and torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SwaToolsError(
            f"unknown device {name!r}: expected auto, cpu, cuda, cuda:N or mps"
        ) from error
    if device.type == "cuda":
        return _cuda_device(device, local_rank=local_rank, world_size=world_size)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SwaToolsError("device mps: this machine or this torch has no MPS; try --device cpu")
    if device.type == "mps" and world_size > 1:
        raise SwaToolsError(
            "device mps: torch runs only one process on MPS; start without torchrun"
        )
    return device


def _cuda_device(device: torch.device, *, local_rank: int, world_size: int) -> torch.device:
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_devices == 0:
        raise SwaToolsError(f"device {device}: torch finds no CUDA GPU; try --device cpu")
    has_number = ":" in str(device)
    if has_number and world_size > 1:
        raise SwaToolsError(
            f"device {device}: {world_size} processes cannot share one GPU; leave the number out,"
            " and each process takes the GPU of its local rank"
        )
    index = device.index if has_number else local_rank
    if index >= n_devices:
        raise SwaToolsError(
            f"device cuda:{index}: there are only {n_devices} GPUs here;"
            f" start with torchrun --nproc-per-node {n_devices} or fewer"
        )
    return torch.device("cuda", index)


def _environment_number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    try:
        return int(value)
    except ValueError as error:
        raise SwaToolsError(
            f"environment variable {name}: expected a whole number, found {value!r}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
