"""The streaming average: blocks of tensors through reused buffers, on several threads.

Every tensor is cut into blocks of `BLOCK_ELEMENTS` elements. A thread takes a block, reads it from
one source after the other into one buffer, adds it to a float64 accumulator (complex64 counts as
pairs of float32), divides, converts once, and passes the result on. It takes a few blocks of memory
per thread, whatever the number of checkpoints and the size of their tensors. The order of the
additions is that of the sources, so the result does not depend on the number of threads.
"""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from swa_tools.averaging.blocks import Block, BlockSum, Workspace, blocks_of
from swa_tools.averaging.conversion import decode
from swa_tools.averaging.plan import AveragePlan, TensorPlan
from swa_tools.averaging.rules import unequal
from swa_tools.checkpoints.digest import block_hash, combine
from swa_tools.checkpoints.dtypes import numpy_dtype
from swa_tools.checkpoints.header import tensor_bytes
from swa_tools.errors import CheckpointError
from swa_tools.listening import Advance, unheard

MAX_THREADS = 8
"""More threads gain nothing: by then memory bandwidth is the limit."""

Sink = Callable[[TensorPlan, int, memoryview], None]
"""Receives (tensor, byte offset in it, bytes); called from any thread."""


Hashes = dict[str, tuple[int, ...]]
"""Sums of the block hashes of each tensor by name: in every source, in order, and in the output."""


@dataclasses.dataclass(frozen=True, slots=True)
class Digests:
    """Content digests of everything that went through.

    Attributes:
        sources: The digest of each source, in order.
        output: The digest of the average.
    """

    sources: tuple[str, ...]
    output: str


def run_average(
    plan: AveragePlan,
    sink: Sink,
    *,
    allow_nonfinite: bool = False,
    advance: Advance = unheard,
    n_threads: int | None = None,
) -> Hashes:
    """Read every source once, average, and give the result to the sink block by block.

    Args:
        plan: From `plan_average`.
        sink: Receives the bytes of the average, in any order.
        allow_nonfinite: Whether NaN and Inf may pass.
        advance: Called with the number of bytes read since its last call, for progress.
        n_threads: By default one per core, up to `MAX_THREADS`.

    Returns:
        What `digests_of` combines.

    Raises:
        CheckpointError: A source cannot be read, changed while it was read, holds NaN or Inf, or
            differs from the others in a tensor that must be equal in all.
    """
    _read_ahead(plan)
    hashes = _run_blocks(plan, sink, allow_nonfinite, advance, n_threads)
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    return hashes


def _read_ahead(plan: AveragePlan) -> None:
    for i, checkpoint in enumerate(plan.checkpoints):
        parts = ((t.name, 0, tensor_bytes(t.dtypes[i], t.shape)) for t in plan.tensors)
        checkpoint.will_read(parts, share=len(plan.checkpoints))


def _run_blocks(
    plan: AveragePlan,
    sink: Sink,
    allow_nonfinite: bool,  # noqa: FBT001  # handed on as it came
    advance: Advance,
    n_threads: int | None,
) -> Hashes:
    work = _Work(plan, sink, allow_nonfinite=allow_nonfinite, advance=advance)
    if n_threads is None:
        n_threads = min(os.cpu_count() or 1, MAX_THREADS)
    _run_threads(blocks_of(plan.tensors), work.run_block, n_threads)
    return {name: tuple(sums) for name, sums in work.hashes.items()}


def digests_of(plan: AveragePlan, hashes: Mapping[str, Sequence[int]]) -> Digests:
    """Combine the hashes of all tensors of a plan, whoever averaged them, into digests."""

    def digest(i: int, dtypes: Iterable[str]) -> str:
        rows = zip(plan.tensors, dtypes, strict=True)
        return combine({t.name: (dtype, t.shape, hashes[t.name][i]) for t, dtype in rows})

    return Digests(
        sources=tuple(
            digest(i, (tensor.dtypes[i] for tensor in plan.tensors))
            for i in range(len(plan.checkpoints))
        ),
        output=digest(-1, (tensor.output_dtype for tensor in plan.tensors)),
    )


def iterate_average(
    plan: AveragePlan, *, allow_nonfinite: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, averaged array), one tensor after the other, in the order of the plan.

    At most one tensor is held in memory. Arrays are of the output's dtype (ml_dtypes' for
    bfloat16 and float8) and the caller's to keep.

    Raises:
        CheckpointError: As `run_average`.
    """
    _read_ahead(plan)
    for tensor in plan.tensors:
        array = np.empty(tensor.shape, numpy_dtype(tensor.output_dtype))
        flat = array.reshape(-1).view(np.uint8).data

        def fill(_tensor: TensorPlan, offset: int, data: memoryview) -> None:
            flat[offset : offset + len(data)] = data  # noqa: B023  # used up within this turn

        one = dataclasses.replace(plan, tensors=(tensor,))
        _run_blocks(one, fill, allow_nonfinite, unheard, None)
        yield tensor.name, array
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()


def _run_threads(
    blocks: Iterator[Block], run_block: Callable[[Block, Workspace], None], n_threads: int
) -> None:
    """Share the blocks among threads; the first error ends all of them and is raised here."""
    lock, stop = threading.Lock(), threading.Event()
    errors: list[BaseException] = []

    def loop() -> None:
        workspace = Workspace()
        try:
            with np.errstate(all="ignore"):  # NaN and Inf are looked for, not warned about
                while not stop.is_set():
                    with lock:
                        block = next(blocks, None)
                    if block is None:
                        return
                    run_block(block, workspace)
        except BaseException as error:
            errors.append(error)
            stop.set()

    def work(finished: threading.Event) -> None:
        try:
            loop()
        finally:
            finished.set()

    threads = {
        event: threading.Thread(target=work, args=(event,))
        for event in (threading.Event() for _ in range(n_threads - 1))
    }
    try:
        for thread in threads.values():
            thread.start()
        loop()
    finally:
        stop.set()  # either nothing is left to take, or something failed
        _wait([event for event, thread in threads.items() if thread.ident is not None])
    if errors:
        raise errors[0]


def _wait(events: Sequence[threading.Event]) -> None:
    """Wait for all, through Ctrl-C too: no thread may write once its file is closed.

    `Thread.join` will not do: interrupted, it takes the thread for dead (CPython issue 90882).
    """
    interruption: BaseException | None = None
    for event in events:
        while not event.is_set():
            try:
                event.wait()
            except BaseException as error:
                interruption = error
    if interruption:
        raise interruption


class _Work:
    """One run of the kernel: what its threads share."""

    def __init__(
        self, plan: AveragePlan, sink: Sink, *, allow_nonfinite: bool, advance: Advance
    ) -> None:
        self._plan, self._sink = plan, sink
        self._allow_nonfinite, self._advance = allow_nonfinite, advance
        self._lock = threading.Lock()
        self.hashes = {tensor.name: [0] * (len(plan.checkpoints) + 1) for tensor in plan.tensors}

    def run_block(self, block: Block, workspace: Workspace) -> None:
        """Read one block from every source and give the sink the result."""
        make = self._average if block.tensor.action == "average" else self._copy
        sources, data = make(block, workspace)
        self._sink(block.tensor, block.span(block.tensor.output_dtype)[0], data)
        output = block_hash(data, block.index)
        sums = self.hashes[block.tensor.name]
        with self._lock:
            for i, value in enumerate((*sources, output)):
                sums[i] += value
            self._advance(sum(block.span(dtype)[1] for dtype in block.tensor.dtypes))

    def _average(self, block: Block, workspace: Workspace) -> tuple[list[int], memoryview]:
        """Return the hashes of the sources' bytes and the bytes of their mean."""
        sources: list[int] = []
        total = BlockSum(block, workspace)
        for i, factor in enumerate(self._plan.coefficients):
            data = self._read(i, block, workspace.data)
            sources.append(block_hash(data, block.index))
            total.add(data, block.tensor.dtypes[i], factor)
        mean = total.mean(self._plan.divisor, block.tensor.output_dtype)
        if not self._allow_nonfinite and not np.isfinite(mean).all():
            raise self._nonfinite(block)
        return sources, mean.view(np.uint8).data

    def _copy(self, block: Block, workspace: Workspace) -> tuple[list[int], memoryview]:
        """Return the hashes of the sources' bytes and the bytes to keep."""
        sources: list[int] = []
        kept = workspace.kept[: block.span(block.tensor.output_dtype)[1]]
        for i in range(len(self._plan.checkpoints)):
            data = self._read(i, block, workspace.data)
            sources.append(block_hash(data, block.index))
            if i == 0 or block.tensor.action == "last":
                kept[:] = data
            elif not np.array_equal(np.frombuffer(kept, np.uint8), np.frombuffer(data, np.uint8)):
                raise self._unequal(i, block.tensor)
        return sources, kept

    def _read(self, source: int, block: Block, buffer: memoryview) -> memoryview:
        offset, n_bytes = block.span(block.tensor.dtypes[source])
        data = buffer[:n_bytes]
        self._plan.checkpoints[source].read_into(block.tensor.name, offset, data)
        return data

    def _nonfinite(self, block: Block) -> CheckpointError:
        tensor, workspace = block.tensor, Workspace()
        for i, checkpoint in enumerate(self._plan.checkpoints):
            data = self._read(i, block, workspace.data)
            values = decode(data, tensor.dtypes[i], workspace.term)
            if not np.isfinite(values).all():
                return CheckpointError(
                    f"{checkpoint.path}: tensor {tensor.name!r} holds NaN or Inf; leave this"
                    " checkpoint out, or give --allow-nonfinite"
                )
        return CheckpointError(
            f"tensor {tensor.name!r}: its average does not fit into {tensor.output_dtype};"
            " choose a wider --dtype"
        )

    def _unequal(self, source: int, tensor: TensorPlan) -> CheckpointError:
        first, other = self._plan.checkpoints[0], self._plan.checkpoints[source]
        return unequal(
            tensor.name, tensor.output_dtype, where=str(other.path), first=str(first.path)
        )
