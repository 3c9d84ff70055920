"""Tensors that are cut into boxes, as sharded training saves them."""

import dataclasses
import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.checkpoints.header import TensorInfo
from swa_tools.checkpoints.read_ahead import Span

MAX_CELLS = 1 << 24
"""Of the grid on which the pieces of a tensor are compared; as many as pieces in all usual cuts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor, and where it stands.

    Attributes:
        name: What its file calls the tensor.
        dtype: Of its elements, as safetensors names it.
        offsets: Its first element along each dimension.
        sizes: Its extent along each.
        file: Name of the file, below the folder.
        start, end: The bytes of the file that it takes.
    """

    name: str
    dtype: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    end: int

    @property
    def n_elements(self) -> int:
        """The product of its extents."""
        return math.prod(self.sizes)

    @property
    def ends(self) -> tuple[int, ...]:
        """The element after its last along each dimension."""
        return tuple(first + n for first, n in zip(self.offsets, self.sizes, strict=True))

    @property
    def box(self) -> tuple[slice, ...]:
        """Its place as an index of the tensor."""
        return tuple(slice(*pair) for pair in zip(self.offsets, self.ends, strict=True))


class PieceReader(ABC):
    """Puts pieces together.

    Attributes:
        tensors: dtype, shape and size by name.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self._pieces: dict[str, list[Piece]] = {}
        self._lock = threading.Lock()
        self._whole: tuple[str, memoryview] | None = None

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `TensorFile`; what is cut along its first dimension streams, as FSDP cuts it."""
        info, pieces = self.tensors[name], self._pieces[name]
        if not all(_is_run(piece, info.shape) for piece in pieces):
            with self._lock:  # put together once, not once for every block of it
                if self._whole is None or self._whole[0] != name:
                    self._whole = name, self._put_together(info, pieces)
                whole = self._whole[1]
            buffer[:] = whole[offset : offset + len(buffer)]
            return
        itemsize = DTYPES[info.dtype].bits // 8
        for piece in pieces:
            start = _first_element(piece, info.shape) * itemsize
            first = max(start, offset)
            last = min(start + piece.n_elements * itemsize, offset + len(buffer))
            if first < last:
                part = buffer[first - offset : last - offset]
                self._read_piece(piece, first - start, part)

    def place(  # noqa: B027  # None for all of them
        self, name: str, offset: int, n_bytes: int
    ) -> Span | None:
        """See `TensorFile`; such folders are read on a disk."""

    def _put_together(self, info: TensorInfo, pieces: Sequence[Piece]) -> memoryview:
        itemsize = DTYPES[info.dtype].bits // 8
        whole = np.empty(info.shape, f"V{itemsize}")
        for piece in pieces:
            data = bytearray(piece.n_elements * itemsize)
            self._read_piece(piece, 0, memoryview(data))
            whole[piece.box] = np.frombuffer(data, f"V{itemsize}").reshape(piece.sizes)
        return whole.reshape(-1).view(np.uint8).data

    @abstractmethod
    def _read_piece(self, piece: Piece, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with bytes of a piece, from its byte `offset` on."""


def _is_run(piece: Piece, shape: tuple[int, ...]) -> bool:
    """Tell whether a box is one run of the tensor's elements in their order."""
    split = next((i for i, size in enumerate(piece.sizes) if size != 1), len(shape))
    return piece.sizes[split + 1 :] == shape[split + 1 :]


def _first_element(piece: Piece, shape: tuple[int, ...]) -> int:
    """Return the place of a box's first element among those of the tensor in their order."""
    place = 0
    for offset, size in zip(piece.offsets, shape, strict=True):
        place = place * size + offset
    return place


def make_up(shape: tuple[int, ...], pieces: Sequence[Piece]) -> bool:
    """Tell whether boxes make up a tensor, each element once."""
    if any(len(p.sizes) != len(shape) or len(p.offsets) != len(shape) for p in pieces):
        return False
    if any(end > size for p in pieces for end, size in zip(p.ends, shape, strict=True)):
        return False
    if sum(piece.n_elements for piece in pieces) != math.prod(shape):
        return False
    if all(_is_run(piece, shape) for piece in pieces):
        runs = sorted((_first_element(piece, shape), piece.n_elements) for piece in pieces)
        return all(a + n == b for (a, n), (b, _) in itertools.pairwise(runs))
    return not _overlap(pieces)


def _overlap(pieces: Sequence[Piece]) -> bool:
    """Tell whether boxes overlap, on the grid of all their edges; also if that is too fine."""
    cuts = zip(*(piece.box for piece in pieces), strict=True)
    edges = [sorted({edge for cut in along for edge in (cut.start, cut.stop)}) for along in cuts]
    if math.prod(len(along) - 1 for along in edges) > MAX_CELLS:
        return True
    numbers = [{edge: i for i, edge in enumerate(along)} for along in edges]
    taken = np.zeros([len(along) - 1 for along in edges], bool)
    for piece in pieces:
        pairs = zip(piece.box, numbers, strict=True)
        cells = taken[tuple(slice(number[cut.start], number[cut.stop]) for cut, number in pairs)]
        if cells.any():
            return True
        cells[...] = True
    return False
