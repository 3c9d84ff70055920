"""Folders of `torch.distributed.checkpoint` (FSDP, torchtitan, Lightning, NeMo, Megatron).

`.metadata` is a pickle that says which pieces a tensor is cut into and where they stand in the
`.distcp` files; each piece is a file of `torch.save` inside of one of these. Nothing of torch is
needed to put them together, whatever number of ranks wrote them.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swa_tools.checkpoints.files import Input, open_input
from swa_tools.checkpoints.foreign.inert import Global, Inert
from swa_tools.checkpoints.foreign.inert_pickle import BrokenPickleError, read_pickle
from swa_tools.checkpoints.foreign.pieces import Piece, PieceReader, make_up
from swa_tools.checkpoints.foreign.rebuilding import REBUILD
from swa_tools.checkpoints.foreign.stored_tensor import (
    TORCH_DTYPES,
    Storage,
    StoredTensor,
    is_sizes,
    layout,
)
from swa_tools.checkpoints.foreign.torch_format import read_contents
from swa_tools.checkpoints.foreign.weight_sets import choose_weights
from swa_tools.checkpoints.foreign.window import Window
from swa_tools.checkpoints.header import MAX_DIMENSIONS, TensorInfo
from swa_tools.errors import CheckpointError

METADATA_FILE = ".metadata"

MAX_PATH = 100
"""Parts of the place of a tensor among nested dictionaries."""


class DcpFolder(PieceReader):
    """One folder; a `TensorFile`."""

    def __init__(self, folder: Path, *, entry: str | None = None) -> None:
        super().__init__()
        self.path = folder / METADATA_FILE
        self.metadata: dict[str, str] = {}
        self.numbers: dict[str, float] = {}
        self.prefix = ""
        self._folder = folder
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
        spans = sorted((p.file, p.start, p.end) for ps in self._pieces.values() for p in ps)
        for (file, _, end), (next_file, start, _) in itertools.pairwise(spans):
            if file == next_file and start < end:
                raise CheckpointError(f"{self._folder / file}: pieces overlap at byte {start:,}")

    def _info(self, name: str, tensor: StoredTensor) -> TensorInfo:
        where = f"{self._folder}: tensor {name!r:.200}"
        if tensor.dtype not in TORCH_DTYPES.values():
            raise CheckpointError(f"{where} has dtype {tensor.dtype!r:.100}; not supported")
        if len(tensor.shape) > MAX_DIMENSIONS or tensor.bytes_without_zeros > sys.maxsize:
            raise CheckpointError(f"{where} is too large, {tensor.shape}")
        if not make_up(tensor.shape, self._pieces[name]):
            raise CheckpointError(f"{where}: its pieces do not make up {list(tensor.shape)}")
        for piece in self._pieces[name]:
            if piece.end > self._open(piece.file).n_bytes:
                raise CheckpointError(
                    f"{self._folder / piece.file}: cut off: tensor {name!r:.200} reaches to byte"
                    f" {piece.end:,}, the file has {self._open(piece.file).n_bytes:,}"
                )
            if piece.n_elements * tensor.itemsize > piece.end - piece.start:
                raise CheckpointError(f"{where} claims more than stands in {piece.file}")
        return TensorInfo(tensor.dtype, tensor.shape, 0, tensor.n_bytes)

    def _open(self, name: str) -> Input:
        if name not in self._files:
            if Path(name).name != name or not name.isprintable():
                raise CheckpointError(
                    f"{self.path}: it names a file outside its folder, {name!r:.100}; refused"
                )
            self._files[name] = open_input(self._folder / name)
        return self._files[name]

    def _read_piece(self, piece: Piece, offset: int, buffer: memoryview) -> None:
        file = self._open(piece.file)
        if piece not in self._found:
            self._found[piece] = _find(piece, file)
        tensor, first = self._found[piece]
        if tensor.is_plain:
            file.read_at(first + offset, buffer)
            return
        data = bytearray(tensor.span * tensor.itemsize)
        file.read_at(first, memoryview(data))
        buffer[:] = layout(tensor, data).data[offset : offset + len(buffer)]

    def check_unchanged(self) -> None:
        """See `TensorFile`."""
        for file in (self._file, *self._files.values()):
            file.check_unchanged()

    def close(self) -> None:
        """See `TensorFile`."""
        for file in (self._file, *self._files.values()):
            file.close()
        self._whole = None


def _find(piece: Piece, file: Input) -> tuple[StoredTensor, int]:
    """Read the file of `torch.save` that a piece is; return its tensor and the first byte of it."""
    contents = read_contents(file, start=piece.start, end=piece.end)
    tensor = contents.loaded
    is_tensor = isinstance(tensor, StoredTensor)
    if not is_tensor or (tensor.dtype, tensor.shape) != (piece.dtype, piece.sizes):
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
        offset, length = _sizes((info["offset"], info["length"]))
        if not isinstance(info["relative_path"], str):
            raise TypeError("a file without a name")
        where = _place(index["fqn"], _sizes(index.get("offset") or ()))
        places[where] = info["relative_path"], offset, offset + length
    paths = fields.get("planner_data")
    described = _Described({}, {})
    for key, value in fields["state_dict_metadata"].items():
        if not isinstance(key, str) or not isinstance(value, Inert):
            raise TypeError("a name that is no string")
        path = paths[key] if isinstance(paths, dict) and key in paths else (key,)
        if not 0 < len(path) <= MAX_PATH or not all(isinstance(part, str | int) for part in path):
            raise TypeError("a name without a place")
        leaf = _tensor(key, value, places, described.pieces) if _is_tensor(value) else value
        parent = described.nested
        for part in path[:-1]:
            parent = parent.setdefault(str(part), {})
        if parent.setdefault(str(path[-1]), leaf) is not leaf:
            raise ValueError("two tensors in one place")
    return described


def _tensor(
    key: str, value: Inert, places: Mapping[Any, Any], pieces: dict[str, list[Piece]]
) -> StoredTensor:
    fields = _state(value)
    properties = fields["properties"].state
    said = properties[0] if isinstance(properties, tuple) else properties["dtype"]
    name = said.name.removeprefix("torch.") if isinstance(said, Global) else "unknown"
    dtype = TORCH_DTYPES.get(name, name)
    pieces[key] = []
    for chunk in fields["chunks"]:
        box = _state(chunk)
        offsets, sizes = _sizes(box["offsets"]), _sizes(box["sizes"])
        if 0 not in sizes:
            place = places[_place(key, offsets)]
            pieces[key].append(Piece(key, dtype, offsets, sizes, *place))
    shape = _sizes(fields["size"])
    strides = tuple(itertools.accumulate((*shape[:0:-1],), lambda a, b: a * b, initial=1))[::-1]
    storage = Storage(key, "U8", 0)
    return StoredTensor(storage, dtype, shape, strides[: len(shape)])


def _place(name: Any, offsets: tuple[int, ...]) -> tuple[str, str]:
    """Return a key for a piece; as strings, for nobody can choose those that collide."""
    if not isinstance(name, str):
        raise TypeError("a name that is no string")
    return name, str(offsets)


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
    if not is_sizes(value):
        raise TypeError("a shape that is none")
    return tuple(value)
