"""Folders of `torch.distributed.checkpoint` (FSDP, torchtitan, Lightning, NeMo, Megatron).

`.metadata` is a pickle that says which pieces a tensor is cut into and where they stand in the
`.distcp` files; each piece is a file of `torch.save` inside of one of these. Nothing of torch is
needed to put them together, whatever number of ranks wrote them.
"""

import dataclasses
import itertools
import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.checkpoints.files import Input, open_input
from swa_tools.checkpoints.foreign.inert_pickle import (
    BrokenPickleError,
    Global,
    Inert,
    read_pickle,
)
from swa_tools.checkpoints.foreign.stored_tensor import (
    REBUILD,
    TORCH_DTYPES,
    Storage,
    StoredTensor,
    layout,
)
from swa_tools.checkpoints.foreign.torch_format import read_contents
from swa_tools.checkpoints.foreign.weight_sets import choose_weights
from swa_tools.checkpoints.foreign.window import Window
from swa_tools.checkpoints.header import TensorInfo
from swa_tools.checkpoints.read_ahead import Span
from swa_tools.errors import CheckpointError

METADATA_FILE = ".metadata"


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor, and where it stands.

    Attributes:
        offsets: Its first element along each dimension.
        sizes: Its extent along each.
        file: Name of the file, below the folder.
        start, end: The bytes of the file that it takes.
    """

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
    def box(self) -> tuple[slice, ...]:
        """Its place as an index of the tensor."""
        pairs = zip(self.offsets, self.sizes, strict=True)
        return tuple(slice(first, first + size) for first, size in pairs)


class DcpFolder:
    """One folder; a `TensorFile`."""

    def __init__(self, folder: Path, *, entry: str | None = None) -> None:
        self.path = folder / METADATA_FILE
        self.metadata: dict[str, str] = {}
        self.numbers: dict[str, float] = {}
        self.prefix = ""
        self._folder = folder
        self._lock = threading.Lock()
        self._whole: tuple[str, memoryview] | None = None
        self._files: dict[str, Input] = {}
        self._found: dict[Piece, tuple[StoredTensor, int]] = {}
        self._file = open_input(self.path)
        try:
            self._load(entry)
        except OSError as error:
            self.close()
            raise CheckpointError(f"{self.path}: cannot read it: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _load(self, entry: str | None) -> None:
        try:
            stream = Window(self._file, 0, self._file.n_bytes)
            described = _describe(read_pickle(stream, rebuild=REBUILD))
        except (BrokenPickleError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{self.path}: not the metadata of a torch.distributed.checkpoint"
                f" ({str(error)[:200]!r})"
            ) from error
        weights = choose_weights(described.nested, entry, where=str(self._folder))
        self.notes = weights.notes
        self._pieces = {
            name: described.pieces[tensor.key] for name, tensor in weights.tensors.items()
        }
        self.tensors = {name: self._info(name, t) for name, t in weights.tensors.items()}

    def _info(self, name: str, tensor: StoredTensor) -> TensorInfo:
        where = f"{self._folder}: tensor {name!r:.200}"
        if tensor.dtype not in TORCH_DTYPES.values():
            raise CheckpointError(f"{where} has dtype {tensor.dtype!r:.100}; not supported")
        if not _fill(tensor.shape, self._pieces[name]):
            raise CheckpointError(f"{where}: its pieces do not make up {list(tensor.shape)}")
        for piece in self._pieces[name]:
            if piece.end > self._open(piece.file).n_bytes:
                raise CheckpointError(
                    f"{self._folder / piece.file}: cut off: tensor {name!r:.200} reaches to byte"
                    f" {piece.end:,}, the file has {self._open(piece.file).n_bytes:,}"
                )
        return TensorInfo(tensor.dtype, tensor.shape, 0, tensor.n_bytes)

    def _open(self, name: str) -> Input:
        if name not in self._files:
            if Path(name).name != name:
                raise CheckpointError(
                    f"{self.path}: it names a file outside its folder, {name!r:.100}; refused"
                )
            self._files[name] = open_input(self._folder / name)
        return self._files[name]

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
        itemsize = info.n_bytes // info.n_elements
        for piece in pieces:
            start = _first_element(piece, info.shape) * itemsize
            first = max(start, offset)
            last = min(start + piece.n_elements * itemsize, offset + len(buffer))
            if first < last:
                part = buffer[first - offset : last - offset]
                self._read_piece(piece, info.dtype, first - start, part)

    def _put_together(self, info: TensorInfo, pieces: Sequence[Piece]) -> memoryview:
        itemsize = info.n_bytes // info.n_elements
        whole = np.empty(info.shape, f"V{itemsize}")
        for piece in pieces:
            data = bytearray(piece.n_elements * itemsize)
            self._read_piece(piece, info.dtype, 0, memoryview(data))
            whole[piece.box] = np.frombuffer(data, f"V{itemsize}").reshape(piece.sizes)
        return whole.reshape(-1).view(np.uint8).data

    def _read_piece(self, piece: Piece, dtype: str, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with bytes of a piece."""
        file = self._open(piece.file)
        if piece not in self._found:
            self._found[piece] = _find(piece, file, dtype)
        tensor, first = self._found[piece]
        if tensor.is_plain:
            file.read_at(first + offset, buffer)
            return
        data = bytearray(tensor.span * tensor.itemsize)
        file.read_at(first, memoryview(data))
        buffer[:] = layout(tensor, data).data[offset : offset + len(buffer)]

    def place(self, name: str, offset: int, n_bytes: int) -> Span | None:
        """See `TensorFile`; such folders are read on a disk."""

    def check_unchanged(self) -> None:
        """See `TensorFile`."""
        for file in (self._file, *self._files.values()):
            file.check_unchanged()

    def close(self) -> None:
        """See `TensorFile`."""
        for file in (self._file, *self._files.values()):
            file.close()
        self._whole = None


def _find(piece: Piece, file: Input, dtype: str) -> tuple[StoredTensor, int]:
    """Read the file of `torch.save` that a piece is; return its tensor and the first byte of it."""
    contents = read_contents(file, start=piece.start, end=piece.end)
    tensor = contents.loaded
    is_expected = isinstance(tensor, StoredTensor) and tensor.dtype == dtype
    if not is_expected or tensor.shape != piece.sizes:
        raise CheckpointError(f"{file.path}: at byte {piece.start} stands another tensor")
    fault = contents.fault(tensor, file.n_bytes)
    if fault is not None:
        raise CheckpointError(f"{file.path}: the tensor at byte {piece.start} {fault}")
    return tensor, contents.first_byte(tensor)


def is_dcp_folder(folder: Path) -> bool:
    """Tell whether `torch.distributed.checkpoint` wrote a folder."""
    return os.path.isfile(folder / METADATA_FILE)


@dataclasses.dataclass(frozen=True, slots=True)
class _Described:
    """What `.metadata` says: the nest of dictionaries that was saved, and the pieces by key."""

    nested: dict[str, Any]
    pieces: dict[str, list[Piece]]


def _describe(metadata: Any) -> _Described:
    """Read torch's `Metadata`, in which every object is inert."""
    fields = _state(metadata)
    places = {}
    for key, value in fields["storage_data"].items():
        index, info = _state(_unwrapped(key)), _state(value)
        if info.get("transform_descriptors"):
            raise ValueError("its pieces are compressed or encrypted")
        span = info["relative_path"], info["offset"], info["offset"] + info["length"]
        places[index["fqn"], _sizes(index.get("offset") or ())] = span
    paths = fields.get("planner_data")
    described = _Described({}, {})
    for key, value in fields["state_dict_metadata"].items():
        if not isinstance(key, str) or not isinstance(value, Inert):
            raise TypeError("a name that is no string")
        path = paths[key] if isinstance(paths, dict) and key in paths else (key,)
        leaf = _tensor(key, value, places, described.pieces) if _is_tensor(value) else value
        place = described.nested
        for part in path[:-1]:
            place = place.setdefault(str(part), {})
        place[str(path[-1])] = leaf
    return described


def _tensor(
    key: str, value: Inert, places: Mapping[Any, Any], pieces: dict[str, list[Piece]]
) -> StoredTensor:
    fields = _state(value)
    properties = fields["properties"].state
    dtype = properties[0] if isinstance(properties, tuple) else properties["dtype"]
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, Global) else "unknown"
    pieces[key] = []
    for chunk in fields["chunks"]:
        box = _state(chunk)
        offsets, sizes = _sizes(box["offsets"]), _sizes(box["sizes"])
        if 0 not in sizes:
            pieces[key].append(Piece(offsets, sizes, *places[key, offsets]))
    shape = _sizes(fields["size"])
    strides = tuple(itertools.accumulate((*shape[:0:-1],), lambda a, b: a * b, initial=1))[::-1]
    storage = Storage(key, "U8", 0)
    return StoredTensor(storage, TORCH_DTYPES.get(name, name), shape, strides[: len(shape)])


def _is_tensor(value: Inert) -> bool:
    return value.name.endswith(".TensorStorageMetadata")


def _state(value: Any) -> dict[str, Any]:
    if not isinstance(value, Inert) or not isinstance(value.state, dict):
        raise TypeError("an object without a state")
    return value.state


def _unwrapped(key: Any) -> Any:
    """Return the object that is the key of a dictionary; see `inert_pickle`."""
    return key.arguments if isinstance(key, Inert) else key


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(type(n) is int and n >= 0 for n in value):
        raise TypeError("a shape that is none")
    return tuple(value)


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


def _fill(shape: tuple[int, ...], pieces: Sequence[Piece]) -> bool:
    """Tell whether boxes make up a tensor, each element once."""
    if any(len(p.sizes) != len(shape) or len(p.offsets) != len(shape) for p in pieces):
        return False
    if any(s.stop > size for p in pieces for s, size in zip(p.box, shape, strict=True)):
        return False
    if sum(piece.n_elements for piece in pieces) != math.prod(shape):
        return False
    if all(_is_run(piece, shape) for piece in pieces):
        runs = sorted((_first_element(piece, shape), piece.n_elements) for piece in pieces)
        return all(a + n == b for (a, n), (b, _) in itertools.pairwise(runs))
    return not any(_overlap(one, other) for one, other in itertools.combinations(pieces, 2))


def _overlap(one: Piece, other: Piece) -> bool:
    boxes = zip(one.box, other.box, strict=True)
    return all(max(a.start, b.start) < min(a.stop, b.stop) for a, b in boxes)
