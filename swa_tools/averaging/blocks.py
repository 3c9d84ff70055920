"""Blocks of tensors, the buffers they pass through, and the float64 sum over one of them."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from swa_tools.averaging.conversion import convert, decode
from swa_tools.averaging.plan import TensorPlan
from swa_tools.checkpoints.digest import BLOCK_ELEMENTS
from swa_tools.checkpoints.dtypes import DTYPES


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Up to `BLOCK_ELEMENTS` consecutive elements of a tensor.

    Attributes:
        tensor: The tensor.
        index: The block's position in the tensor.
        n_elements: How many elements it has.
    """

    tensor: TensorPlan
    index: int
    n_elements: int

    def span(self, dtype: str) -> tuple[int, int]:
        """Its byte offset in the tensor and its size in bytes, as stored in a dtype."""
        bits = DTYPES[dtype].bits
        return self.index * BLOCK_ELEMENTS * bits // 8, (self.n_elements * bits + 7) // 8


def blocks_of(tensors: Sequence[TensorPlan]) -> Iterator[Block]:
    """Cut tensors into blocks, one tensor after the other."""
    for tensor in tensors:
        for index, start in enumerate(range(0, tensor.n_elements, BLOCK_ELEMENTS)):
            n_elements = min(BLOCK_ELEMENTS, tensor.n_elements - start)
            yield Block(tensor, index, n_elements)


class Workspace:
    """The buffers of one thread, each with room for a block of any dtype.

    Attributes:
        total, term: float64.
        data, kept: Bytes.
    """

    def __init__(self) -> None:
        self.total = np.empty(2 * BLOCK_ELEMENTS, np.float64)
        self.term = np.empty(2 * BLOCK_ELEMENTS, np.float64)
        self.data = memoryview(bytearray(8 * BLOCK_ELEMENTS))
        self.kept = memoryview(bytearray(8 * BLOCK_ELEMENTS))


class BlockSum:
    """The weighted sum of one block over the sources, in float64."""

    def __init__(self, block: Block, workspace: Workspace) -> None:
        n_numbers = block.n_elements * (2 if block.tensor.output_dtype == "C64" else 1)
        self._total = workspace.total[:n_numbers]
        self._term = workspace.term[:n_numbers]
        self._is_empty = True

    def add(self, data: memoryview, dtype: str, factor: float) -> None:
        """Add factor × the numbers in the data."""
        values = decode(data, dtype, self._term)
        if factor != 1.0:
            values = np.multiply(values, factor, out=self._term, dtype=np.float64)
        if self._is_empty:
            np.copyto(self._total, values)
            self._is_empty = False
        else:
            np.add(self._total, values, out=self._total)

    def mean(self, divisor: float, dtype: str) -> np.ndarray:
        """Divide, and convert once."""
        return convert(np.divide(self._total, divisor, out=self._term), dtype)
