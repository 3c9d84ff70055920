"""Folders of safetensors files that ranks wrote, each its part of every tensor.

torch's `HuggingFaceStorageWriter` leaves them where it is not asked to consolidate; the metadata of
each file say where its parts begin.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from swa_tools.checkpoints.files import SafetensorsFile
from swa_tools.checkpoints.foreign.pieces import Piece, PieceReader, make_up
from swa_tools.checkpoints.header import TensorInfo, tensor_bytes
from swa_tools.errors import CheckpointError
from swa_tools.json_documents import MismatchError, parse_object

PIECE_NAME = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
SHARDING_KEY = "DCP_SHARDING_INFO"


class SafetensorsPieces(PieceReader):
    """One folder; a `TensorFile`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.metadata: dict[str, str] = {}
        self.numbers: dict[str, float] = {}
        self.prefix = ""
        self._files: dict[str, SafetensorsFile] = {}
        try:
            for name in sorted(filter(PIECE_NAME.fullmatch, os.listdir(folder))):
                self._files[name] = SafetensorsFile(folder / name)
                self._add(name, self._files[name])
            for name, pieces in self._pieces.items():
                self.tensors[name] = self._info(folder, name, pieces)
        except BaseException:
            self.close()
            raise
        self.path = next(iter(self._files.values())).path
        n = len(self._files)
        note = f"put together from {n} files of ranks; they do not say how many there were"
        self.notes: tuple[str, ...] = (note,)

    def _add(self, file_name: str, file: SafetensorsFile) -> None:
        places = _places(file)
        for name, info in file.tensors.items():
            offsets = places.get(name)
            if offsets is None or len(offsets) != len(info.shape):
                raise CheckpointError(
                    f"{file.path}: it does not say which part of tensor {name!r:.200} it holds"
                )
            place = file_name, info.start, info.end
            piece = Piece(name, info.dtype, offsets, info.shape, *place)
            self._pieces.setdefault(name, []).append(piece)

    def _info(self, folder: Path, name: str, pieces: list[Piece]) -> TensorInfo:
        shape = tuple(max(ends) for ends in zip(*(piece.ends for piece in pieces), strict=False))
        if len({piece.dtype for piece in pieces}) > 1 or not make_up(shape, pieces):
            raise CheckpointError(
                f"{folder}: tensor {name!r:.200}: its parts do not make up a whole; is a file"
                " missing?"
            )
        return TensorInfo(pieces[0].dtype, shape, 0, tensor_bytes(pieces[0].dtype, shape))

    def _read_piece(self, piece: Piece, offset: int, buffer: memoryview) -> None:
        self._files[piece.file].read_into(piece.name, offset, buffer)

    def check_unchanged(self) -> None:
        """See `TensorFile`."""
        for file in self._files.values():
            file.check_unchanged()

    def close(self) -> None:
        """See `TensorFile`."""
        for file in self._files.values():
            file.close()


def has_safetensors_pieces(folder: Path) -> bool:
    """Tell whether ranks wrote safetensors files into a folder, each its part of the tensors."""
    return os.path.isdir(folder) and any(map(PIECE_NAME.fullmatch, os.listdir(folder)))


def _places(file: SafetensorsFile) -> Mapping[str, tuple[int, ...]]:
    """Return where each part in a file begins in its tensor."""
    found = {}
    try:
        for name, place in parse_object(file.metadata.get(SHARDING_KEY, "")).items():
            offsets = place["saved_offsets"]
            if all(type(offset) is int and offset >= 0 for offset in offsets):
                found[name] = tuple(offsets)
    except (MismatchError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{file.path}: expected {SHARDING_KEY} of torch's writer in its metadata, found none"
            f" ({error})"
        ) from error
    return found
