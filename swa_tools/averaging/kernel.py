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
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from swa_tools.averaging.plan import AveragePlan, TensorPlan
from swa_tools.checkpoints.digest import BLOCK_ELEMENTS, block_hash, combine
from swa_tools.checkpoints.dtypes import DTYPES, numpy_dtype
from swa_tools.errors import CheckpointError

MAX_THREADS = 8
"""More gain nothing: by then memory bandwidth is the limit."""

MAX_KEPT_BLOCKS = 80
"""Of half a megabyte each, in all threads together, while running averages are made."""

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
            N−1 and those of the last 1, 2, …, N−1 as outputs N … 2N−2, instead of one average of
            all as output 0. Every thread then holds a block of each source.
        allow_nonfinite: Whether NaN and Inf may pass.
        on_bytes: Called with the number of bytes read since its last call, for progress.
        n_threads: By default one for each core, up to `MAX_THREADS`.

    Raises:
        CheckpointError: A source cannot be read or changed meanwhile, holds NaN or Inf, or
            differs from the others in a tensor that must be equal in all.
    """
    work = _Work(plan, sink, running=running, allow_nonfinite=allow_nonfinite, on_bytes=on_bytes)
    if n_threads is None:
        n_threads = min(os.cpu_count() or 1, MAX_THREADS)
        if running:
            n_threads = max(1, min(n_threads, MAX_KEPT_BLOCKS // len(plan.checkpoints)))
    _run_threads(_blocks(plan.tensors), work.run_block, n_threads)
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    return work.digests()


def iterate_average(
    plan: AveragePlan, *, allow_nonfinite: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, averaged array), one tensor after the other, in the order of the plan.

    At most one tensor is held in memory. Arrays are of the output's dtype (ml_dtypes' for
    bfloat16 and float8) and the caller's to keep.

    Raises:
        CheckpointError: As `run_average`.
    """
    for tensor in plan.tensors:
        array = np.empty(tensor.shape, numpy_dtype(tensor.output_dtype))
        flat = array.reshape(-1).view(np.uint8).data

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


class _Workspace:
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.total = np.empty(2 * BLOCK_ELEMENTS, np.float64)
        self.term = np.empty(2 * BLOCK_ELEMENTS, np.float64)
        self._inputs: list[memoryview] = []

    def input(self, number: int) -> memoryview:
        """Return a buffer that holds a block of any dtype."""
        while len(self._inputs) <= number:
            self._inputs.append(memoryview(bytearray(8 * BLOCK_ELEMENTS)))
        return self._inputs[number]


class _Sum:
    """The weighted sum of one block over the sources, in float64."""

    def __init__(self, block: _Block, workspace: _Workspace) -> None:
        n_numbers = block.n_elements * (2 if block.tensor.output_dtype == "C64" else 1)
        self._total = workspace.total[:n_numbers]
        self._term = workspace.term[:n_numbers]
        self._is_empty = True
        self.divisor = 0.0

    def add(self, data: memoryview, dtype: str, factor: float) -> None:
        """Add factor × the numbers in the data."""
        values = _decode(data, dtype, self._term)
        if factor != 1.0:
            values = np.multiply(values, factor, out=self._term, dtype=np.float64)
        if self._is_empty:
            np.copyto(self._total, values)
            self._is_empty = False
        else:
            np.add(self._total, values, out=self._total)
        self.divisor += factor

    def mean(self, divisor: float, dtype: str) -> np.ndarray:
        """Divide, and convert once."""
        return convert(np.divide(self._total, divisor, out=self._term), dtype)


class _Work:
    """One run of the kernel: what its threads share."""

    def __init__(
        self,
        plan: AveragePlan,
        sink: Sink,
        *,
        running: bool,
        allow_nonfinite: bool,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        self._plan, self._sink, self._running = plan, sink, running
        self._allow_nonfinite, self._on_bytes = allow_nonfinite, on_bytes
        n_sources = len(plan.checkpoints)
        self._last = n_sources - 1
        self._lock = threading.Lock()
        self._source_hashes = [[0] * len(plan.tensors) for _ in range(n_sources)]
        n_outputs = 2 * n_sources - 1 if running else 1
        self._output_hashes = [[0] * len(plan.tensors) for _ in range(n_outputs)]

    def digests(self) -> Digests:
        """Combine what was hashed on the way."""
        tensors = self._plan.tensors

        def digest(dtypes: Iterable[str], hashes: Iterable[int]) -> str:
            rows = zip(tensors, dtypes, hashes, strict=True)
            return combine({t.name: (dtype, t.shape, value) for t, dtype, value in rows})

        return Digests(
            sources=tuple(
                digest((t.dtypes[i] for t in tensors), hashes)
                for i, hashes in enumerate(self._source_hashes)
            ),
            outputs=tuple(
                digest((t.output_dtype for t in tensors), hashes) for hashes in self._output_hashes
            ),
        )

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
        sources: list[int] = []
        outputs: list[int] = []
        total = _Sum(block, workspace)
        for i, factor in enumerate(self._plan.coefficients):
            data = self._read(i, block, workspace.input(i if self._running else 0))
            sources.append(block_hash(data, block.index))
            total.add(data, block.tensor.dtypes[i], factor)
            if self._running or i == self._last:
                divisor = total.divisor if self._running else self._plan.divisor
                outputs.append(self._emit_mean(len(outputs), block, total, divisor))
        if self._running:
            total = _Sum(block, workspace)
            for i in range(self._last, 0, -1):
                data = workspace.input(i)[: block.span(block.tensor.dtypes[i])[1]]
                total.add(data, block.tensor.dtypes[i], self._plan.coefficients[i])
                outputs.append(self._emit_mean(len(outputs), block, total, total.divisor))
        return sources, outputs

    def _emit_mean(self, output: int, block: _Block, total: "_Sum", divisor: float) -> int:
        mean = total.mean(divisor, block.tensor.output_dtype)
        if not self._allow_nonfinite and not np.isfinite(mean).all():
            raise self._nonfinite(block)
        return self._emit(output, block, mean.view(np.uint8).data)

    def _copy(self, block: _Block, workspace: _Workspace) -> tuple[list[int], list[int]]:
        sources: list[int] = []
        outputs: list[int] = []
        kept = workspace.input(1)[: block.span(block.tensor.output_dtype)[1]]
        for i in range(len(self._plan.checkpoints)):
            data = self._read(i, block, workspace.input(0))
            sources.append(block_hash(data, block.index))
            if i == 0 or block.tensor.action == "last":
                kept[:] = data
            elif not np.array_equal(np.frombuffer(kept, np.uint8), np.frombuffer(data, np.uint8)):
                raise self._unequal(i, block.tensor)
            if self._running or i == self._last:
                outputs.append(self._emit(len(outputs), block, kept))
        if self._running:
            outputs += [self._emit(self._last + n, block, kept) for n in range(1, self._last + 1)]
        return sources, outputs

    def _read(self, source: int, block: _Block, buffer: memoryview) -> memoryview:
        offset, n_bytes = block.span(block.tensor.dtypes[source])
        data = buffer[:n_bytes]
        self._plan.checkpoints[source].read_into(block.tensor.name, offset, data)
        return data

    def _emit(self, output: int, block: _Block, data: memoryview) -> int:
        self._sink(output, block.tensor, block.span(block.tensor.output_dtype)[0], data)
        return block_hash(data, block.index)

    def _nonfinite(self, block: _Block) -> CheckpointError:
        tensor, workspace = block.tensor, _Workspace()
        for i, checkpoint in enumerate(self._plan.checkpoints):
            data = self._read(i, block, workspace.input(0))
            values = _decode(data, tensor.dtypes[i], workspace.term)
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


def convert(mean: np.ndarray, dtype: str) -> np.ndarray:
    """Convert float64 numbers as torch's `.to` does: to the narrow dtypes by way of float32.

    Args:
        mean: float64; of complex numbers the pairs of real and imaginary part.
        dtype: Where to, as safetensors names it.
    """
    if dtype == "F64":
        return mean
    single = mean.astype(np.float32)
    return single if dtype in ("F32", "C64") else single.astype(numpy_dtype(dtype))


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
