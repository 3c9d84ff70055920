"""The streaming average: blocks of tensors through reused buffers, on several threads.

Every tensor is cut into blocks of `BLOCK_ELEMENTS` elements. A thread takes a block, reads it from
one source after the other into one buffer, adds it to a float64 accumulator (complex64 counts as
pairs of float32), divides, converts once, and hands the result on. Memory is a few blocks a
thread, whatever the number of checkpoints and the size of their tensors. The order of the
additions is that of the sources, so the result does not depend on the number of threads.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from swa_tools.averaging.plan import AveragePlan, TensorPlan
from swa_tools.checkpoints.digest import BLOCK_ELEMENTS, block_hash, combine
from swa_tools.checkpoints.dtypes import DTYPES, numpy_dtype
from swa_tools.errors import CheckpointError

MAX_THREADS = 8
"""More gain nothing: by then memory bandwidth is the limit."""

Sink = Callable[[int, TensorPlan, int, memoryview], None]
"""Receives (number of the output, tensor, byte offset in it, bytes); called from any thread."""


@dataclasses.dataclass(frozen=True, slots=True)
class Digests:
    """Content digests of everything that went through.

    Attributes:
        sources: Of each source, in order.
        outputs: Of each output, in order.
    """

    sources: tuple[str, ...]
    outputs: tuple[str, ...]


def run_average(
    plan: AveragePlan,
    sink: Sink,
    *,
    running: bool = False,
    allow_nonfinite: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    n_threads: int | None = None,
) -> Digests:
    """Read every source once, average, and give the results to the sink block by block.

    Args:
        plan: From `plan_average`.
        sink: Receives the bytes of the output, in any order.
        running: Whether to produce the averages of the first 1, 2, …, N sources as outputs 0 …
            N−1, instead of one average of all as output 0.
        allow_nonfinite: Whether NaN and Inf may pass.
        on_bytes: Called with the number of bytes read since its last call, for progress.
        n_threads: By default one for each core, up to `MAX_THREADS`.

    Raises:
        CheckpointError: A source cannot be read or changed meanwhile, holds NaN or Inf, or
            differs from the others in a tensor that must be equal in all.
    """
    work = _Work(plan, sink, running, allow_nonfinite, on_bytes)
    if n_threads is None:
        n_threads = min(os.cpu_count() or 1, MAX_THREADS)
    _run_threads(_blocks(plan.tensors), work.run_block, n_threads)
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    return work.digests()


def iterate_average(plan: AveragePlan, *, allow_nonfinite: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, averaged array), one tensor after the other, in the order of the plan.

    At most one tensor is held in memory. Arrays are of the output's dtype (ml_dtypes' for
    bfloat16 and float8) and the caller's to keep.

    Raises:
        CheckpointError: As `run_average`.
    """
    for tensor in plan.tensors:
        array = np.empty(tensor.shape, numpy_dtype(tensor.output_dtype))
        flat = memoryview(array.reshape(-1).view(np.uint8))

        def fill(_output: int, _tensor: TensorPlan, offset: int, data: memoryview) -> None:
            flat[offset : offset + len(data)] = data  # noqa: B023  # used up within this turn

        one = dataclasses.replace(plan, tensors=(tensor,))
        run_average(one, fill, allow_nonfinite=allow_nonfinite)
        yield tensor.name, array


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    tensor: TensorPlan
    number: int  # of the tensor in the plan
    index: int  # of the block in the tensor
    n_elements: int

    def span(self, dtype: str) -> tuple[int, int]:
        """Its byte offset in the tensor and its size in bytes, as stored in a dtype."""
        bits = DTYPES[dtype].bits
        return self.index * BLOCK_ELEMENTS * bits // 8, (self.n_elements * bits + 7) // 8


def _blocks(tensors: Sequence[TensorPlan]) -> Iterator[_Block]:
    for number, tensor in enumerate(tensors):
        for index, start in enumerate(range(0, tensor.n_elements, BLOCK_ELEMENTS)):
            n_elements = min(BLOCK_ELEMENTS, tensor.n_elements - start)
            yield _Block(tensor, number, index, n_elements)


def _run_threads(
    blocks: Iterator[_Block], run_block: Callable[[_Block, "_Workspace"], None], n_threads: int
) -> None:
    """Share the blocks among threads; the first error ends all of them and is raised here."""
    lock, stop = threading.Lock(), threading.Event()
    errors: list[BaseException] = []

    def loop() -> None:
        workspace = _Workspace()
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

    threads = [threading.Thread(target=loop, name=f"average-{i}") for i in range(n_threads - 1)]
    try:
        for thread in threads:
            thread.start()
        loop()
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


class _Workspace:
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.input = memoryview(bytearray(8 * BLOCK_ELEMENTS))
        self.kept = memoryview(bytearray(8 * BLOCK_ELEMENTS))
        self.total = np.empty(2 * BLOCK_ELEMENTS, np.float64)
        self.term = np.empty(2 * BLOCK_ELEMENTS, np.float64)
        self.single = np.empty(2 * BLOCK_ELEMENTS, np.float32)


class _Work:
    """One run of the kernel: what its threads share."""

    def __init__(
        self,
        plan: AveragePlan,
        sink: Sink,
        running: bool,
        allow_nonfinite: bool,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        self._plan, self._sink, self._running = plan, sink, running
        self._allow_nonfinite, self._on_bytes = allow_nonfinite, on_bytes
        n_sources = len(plan.checkpoints)
        self._weighted = any(factor != 1.0 for factor in plan.coefficients)
        self._last = n_sources - 1
        self._lock = threading.Lock()
        self._source_hashes = [[0] * len(plan.tensors) for _ in range(n_sources)]
        n_outputs = n_sources if running else 1
        self._output_hashes = [[0] * len(plan.tensors) for _ in range(n_outputs)]

    def digests(self) -> Digests:
        """Combine what was hashed on the way."""
        tensors = self._plan.tensors
        sources = (
            combine({t.name: (t.dtypes[i], t.shape, h) for t, h in zip(tensors, hashes, strict=True)})
            for i, hashes in enumerate(self._source_hashes)
        )
        outputs = (
            combine({t.name: (t.output_dtype, t.shape, h) for t, h in zip(tensors, hashes, strict=True)})
            for hashes in self._output_hashes
        )
        return Digests(tuple(sources), tuple(outputs))

    def run_block(self, block: _Block, workspace: _Workspace) -> None:
        """Read one block from every source and hand on what becomes of it."""
        work = self._average if block.tensor.action == "average" else self._copy
        sources, outputs = work(block, workspace)
        with self._lock:
            for hashes, value in zip(self._source_hashes, sources, strict=True):
                hashes[block.number] += value
            for hashes, value in zip(self._output_hashes, outputs, strict=True):
                hashes[block.number] += value
            if self._on_bytes:
                self._on_bytes(sum(block.span(dtype)[1] for dtype in block.tensor.dtypes))

    def _average(self, block: _Block, workspace: _Workspace) -> tuple[list[int], list[int]]:
        sources, outputs = [], []
        lanes = 2 if block.tensor.output_dtype == "C64" else 1
        total = workspace.total[: block.n_elements * lanes]
        term = workspace.term[: block.n_elements * lanes]
        divisor = 0.0
        for i, factor in enumerate(self._plan.coefficients):
            data = self._read(i, block, workspace.input)
            sources.append(block_hash(data, block.index))
            values = _decode(data, block.tensor.dtypes[i], term)
            if self._weighted:
                values = np.multiply(values, factor, out=term, dtype=np.float64)
            if i == 0:
                np.copyto(total, values)
            else:
                np.add(total, values, out=total)
            divisor += factor
            if self._running or i == self._last:
                mean = np.divide(total, divisor if self._running else self._plan.divisor, out=term)
                data = self._encode(mean, block, workspace)
                outputs.append(self._emit(len(outputs), block, data))
        return sources, outputs

    def _copy(self, block: _Block, workspace: _Workspace) -> tuple[list[int], list[int]]:
        sources, outputs = [], []
        kept = workspace.kept[: block.span(block.tensor.output_dtype)[1]]
        for i in range(len(self._plan.checkpoints)):
            data = self._read(i, block, workspace.input)
            sources.append(block_hash(data, block.index))
            if i == 0 or block.tensor.action == "last":
                kept[:] = data
            elif not np.array_equal(np.frombuffer(kept, np.uint8), np.frombuffer(data, np.uint8)):
                raise self._unequal(i, block.tensor)
            if self._running or i == self._last:
                outputs.append(self._emit(len(outputs), block, kept))
        return sources, outputs

    def _read(self, source: int, block: _Block, buffer: memoryview) -> memoryview:
        offset, n_bytes = block.span(block.tensor.dtypes[source])
        data = buffer[:n_bytes]
        self._plan.checkpoints[source].read_into(block.tensor.name, offset, data)
        return data

    def _emit(self, output: int, block: _Block, data: memoryview) -> int:
        self._sink(output, block.tensor, block.span(block.tensor.output_dtype)[0], data)
        return block_hash(data, block.index)

    def _encode(self, mean: np.ndarray, block: _Block, workspace: _Workspace) -> memoryview:
        """Convert once, as torch's `.to` does: to every narrow dtype by way of float32."""
        dtype = block.tensor.output_dtype
        if dtype == "F64":
            result = mean
        else:
            result = workspace.single[: len(mean)]
            np.copyto(result, mean, casting="same_kind")
            if dtype not in ("F32", "C64"):
                result = result.astype(numpy_dtype(dtype))
        if not self._allow_nonfinite and not np.isfinite(result).all():
            raise self._nonfinite(block, workspace)
        return memoryview(result.view(np.uint8))

    def _nonfinite(self, block: _Block, workspace: _Workspace) -> CheckpointError:
        tensor = block.tensor
        for i, checkpoint in enumerate(self._plan.checkpoints):
            data = self._read(i, block, workspace.input)
            values = _decode(data, tensor.dtypes[i], workspace.term[: len(data)])
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
        return CheckpointError(
            f"{other.path}: tensor {tensor.name!r} ({tensor.output_dtype}) cannot be averaged and"
            f" differs from that in {first.path}"
        )


@functools.cache
def _float8_values(dtype: str) -> np.ndarray:
    """Return the value of each of the 256 codes, (256,) float64: a look-up is the fastest way."""
    return np.arange(256, dtype=np.uint8).view(numpy_dtype(dtype)).astype(np.float64)


def _decode(data: memoryview, dtype: str, term: np.ndarray) -> np.ndarray:
    """Return the numbers of a block as NumPy can add them: in place, or converted into `term`."""
    if dtype == "C64":
        return np.frombuffer(data, np.float32)
    if dtype.startswith("F8"):
        codes = np.frombuffer(data, np.uint8)
        return np.take(_float8_values(dtype), codes, out=term[: len(codes)], mode="clip")
    values: np.ndarray = np.frombuffer(data, numpy_dtype(dtype))
    if dtype == "BF16":
        term = term[: len(values)]
        np.copyto(term, values)
        return term
    return values
