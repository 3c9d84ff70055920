"""Files of `torch.save`, read tensor by tensor without torch.

Today's format is a zip archive: a pickle that describes the tensors, and one uncompressed record
for each storage. The format before PyTorch 1.6 is a row of pickles with the storages behind them
(`torch/serialization.py`, `_legacy_save`). Both say where the numbers stand, so that they can be
read piece by piece as those of a safetensors file are.
"""

import contextlib
import math
import struct
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.checkpoints.dtypes import numpy_dtype
from swa_tools.checkpoints.files import InputFile
from swa_tools.checkpoints.foreign.inert_pickle import BrokenPickleError, read_pickle
from swa_tools.checkpoints.foreign.other_formats import name_of_format, name_of_zip
from swa_tools.checkpoints.foreign.stored_tensor import (
    REBUILD,
    Storage,
    StoredTensor,
    layout,
    storage_of,
)
from swa_tools.checkpoints.foreign.weight_sets import choose_weights
from swa_tools.checkpoints.header import TensorInfo
from swa_tools.checkpoints.names import LIGHTNING_PREFIX
from swa_tools.errors import CheckpointError

ZIP_START = b"PK\x03\x04"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
"""The first pickle of the old format."""

LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a record in a zip archive; the lengths of its name and of its extra field."""

BUFFER_BYTES = 1 << 16

MAX_ITEM_BYTES = 1 << 28
"""Of one string or array inside a pickle; the tensors stand outside of it."""


class TorchFile:
    """One file written by `torch.save`; a `TensorFile`."""

    def __init__(self, path: Path, *, entry: str | None = None) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._contiguous: tuple[str, memoryview] | None = None
        self._lock = threading.Lock()
        self._file = InputFile(path)
        try:
            self._load(entry)
        except OSError as error:
            self._file.close()
            raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise

    def _load(self, entry: str | None) -> None:
        loaded, self._places = _contents(self._file)
        weights = choose_weights(loaded, entry, where=str(self.path))
        self._stored = weights.tensors
        self.notes = weights.notes
        self.prefix = LIGHTNING_PREFIX if weights.is_lightning else ""
        self.tensors = {name: self._info(name, tensor) for name, tensor in self._stored.items()}
        self.numbers = self._numbers(loaded)

    def _info(self, name: str, tensor: StoredTensor) -> TensorInfo:
        """Check what the pickle says of a tensor; its place is counted in the file, not in data."""
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(f"{self.path}: the name {name!r} is not valid Unicode") from error
        fault = self._fault(tensor)
        if fault is not None:
            raise CheckpointError(f"{self.path}: tensor {name!r:.200} {fault}")
        start = self._first_byte(tensor)
        return TensorInfo(tensor.dtype, tensor.shape, start, start + tensor.n_bytes)

    def _fault(self, tensor: StoredTensor) -> str | None:
        fault = tensor.fault(self._file.n_bytes)
        if fault is None and tensor.n_bytes:
            end = self._first_byte(tensor) + tensor.span * tensor.itemsize
            _, last = self._places.get(tensor.key, (0, 0))
            if end > last:
                return "lies beyond its place in the file (cut off while it was written or copied?)"
        return fault

    def _first_byte(self, tensor: StoredTensor) -> int:
        start, _ = self._places.get(tensor.key, (0, 0))
        return start + tensor.first_byte

    def _numbers(self, loaded: Any) -> dict[str, float]:
        """Return `epoch`, `best_acc1`, `metric` and their like: the numbers beside the weights."""
        found = {}
        for key, value in loaded.items() if isinstance(loaded, dict) else ():
            with contextlib.suppress(OverflowError):
                number = self._number(value) if isinstance(value, StoredTensor) else value
                if isinstance(key, str) and isinstance(number, int | float):
                    found[key] = float(number)
        return found

    def _number(self, tensor: StoredTensor) -> Any:
        is_real = math.prod(tensor.shape) == 1 and tensor.dtype != "C64"
        if not is_real or self._fault(tensor) is not None:
            return None
        data = self._laid_out(tensor, self._first_byte(tensor))
        return np.frombuffer(data, numpy_dtype(tensor.dtype)).astype(np.float64)[0].item()

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `TensorFile`."""
        tensor, start = self._stored[name], self.tensors[name].start
        if tensor.is_plain:
            self._file.read_at(start + offset, buffer)
            return
        with self._lock:  # a channels_last tensor is laid out once, not once for every block of it
            if self._contiguous is None or self._contiguous[0] != name:
                self._contiguous = name, self._laid_out(tensor, start)
            laid_out = self._contiguous[1]
        buffer[:] = laid_out[offset : offset + len(buffer)]

    def _laid_out(self, tensor: StoredTensor, start: int) -> memoryview:
        data = bytearray(tensor.span * tensor.itemsize)
        self._file.read_at(start, memoryview(data))
        numbers = layout(tensor, data).view(numpy_dtype(tensor.dtype))
        if tensor.is_conjugate:
            numbers = numbers.conj()
        if tensor.is_negative:
            numbers = -numbers
        return numbers.view(np.uint8).data

    def check_unchanged(self) -> None:
        """See `TensorFile`."""
        self._file.check_unchanged()

    def close(self) -> None:
        """See `TensorFile`."""
        self._file.close()
        self._contiguous = None


Places = Mapping[str, tuple[int, int]]
"""First byte of a storage and the byte after its last, by key."""


def _contents(file: InputFile) -> tuple[Any, Places]:
    """Return what a file holds, tensors as `StoredTensor`, and where its storages stand."""
    start = file.read(BUFFER_BYTES)
    file.seek(0)
    try:
        return _zip_contents(file) if start.startswith(ZIP_START) else _old_contents(file)
    except (BrokenPickleError, zipfile.BadZipFile, struct.error) as error:
        problem = name_of_format(file.path, start) or (
            "not a checkpoint that can be read: expected safetensors or a file of torch.save, found"
            f" something else or a damaged one ({str(error)[:200]})"
        )
        raise CheckpointError(f"{file.path}: {problem}") from error


def _zip_contents(file: InputFile) -> tuple[Any, Places]:
    records = _records(file)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    problem = name_of_zip(records)
    if problem is not None:
        raise CheckpointError(f"{file.path}: {problem}")
    if len(pickles) != 1:
        raise BrokenPickleError("a zip archive without a data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = records.get(f"{folder}byteorder")
    if order is not None and _Window(file, *order).read(100) != b"little":
        raise CheckpointError(f"{file.path}: its numbers are big-endian; not supported")
    stream = _Window(file, *records[pickles[0]])
    loaded = read_pickle(stream, rebuild=REBUILD, persistent=storage_of)
    data = f"{folder}data/"
    return loaded, {n.removeprefix(data): p for n, p in records.items() if n.startswith(data)}


def _records(file: InputFile) -> dict[str, tuple[int, int]]:
    """Return where each record of a zip archive stands.

    Raises:
        zipfile.BadZipFile: One is compressed, encrypted or named twice, or two overlap: torch
            writes none of these, and readers would disagree on what the file holds.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
    except (ValueError, NotImplementedError, EOFError, OverflowError) as error:
        raise zipfile.BadZipFile(str(error)) from error
    records: dict[str, tuple[int, int]] = {}
    for info in listed:
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.flag_bits & 1
            or info.file_size != (info.compress_size)
        ):
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} is compressed")
        if info.filename in records:
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} stands in it twice")
        header = bytearray(LOCAL_HEADER.size)
        if info.header_offset + len(header) > file.n_bytes:
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} is cut off")
        file.read_at(info.header_offset, memoryview(header))
        start = info.header_offset + len(header) + sum(LOCAL_HEADER.unpack(header))
        if start + info.file_size > file.n_bytes:
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} is cut off")
        records[info.filename] = start, start + info.file_size
    end = 0
    for name, (start, stop) in sorted(records.items(), key=lambda item: item[1]):
        if start < end:
            raise zipfile.BadZipFile(f"its record {name!r:.100} overlaps the one before")
        end = stop
    return records


def _old_contents(file: InputFile) -> tuple[Any, Places]:
    stream = _Window(file, 0, file.n_bytes)
    claimed: dict[str, tuple[int, int]] = {}  # number of elements of each storage, their size

    def persistent(reference: Any) -> Any:
        storage = storage_of(reference)
        if isinstance(storage, Storage):
            claimed[storage.key] = reference[4], storage.itemsize
        return storage

    def read(**options: Any) -> Any:
        return read_pickle(stream, rebuild=REBUILD, **options)

    first = read()
    if first != MAGIC_NUMBER:
        raise CheckpointError(
            f"{file.path}: a pickle that torch.save did not write ({_described(first)}); save the"
            " state_dict with torch.save, or as safetensors"
        )
    read()  # the version of the format
    system = read()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"{file.path}: its numbers are big-endian; not supported")
    loaded = read(persistent=persistent)
    keys = read()
    places: dict[str, tuple[int, int]] = {}
    position = stream.tell()
    for key in keys if isinstance(keys, list) else []:
        n_elements, itemsize = claimed.get(key, (-1, 0)) if isinstance(key, str) else (-1, 0)
        if int.from_bytes(_Window(file, position, file.n_bytes).read(8), "little") != n_elements:
            raise BrokenPickleError(f"its storage {key!r:.100} is damaged or cut off")
        start, position = position + 8, position + 8 + n_elements * itemsize
        places[key] = start, min(position, file.n_bytes)
    return loaded, places


def _described(value: Any) -> str:
    name = getattr(value, "name", None)
    return f"it holds {name if isinstance(name, str) else type(value).__name__!r:.100}"


class _Window:
    """A part of a file as a stream, a buffer at a time; for `read_pickle`."""

    def __init__(self, file: InputFile, start: int, end: int) -> None:
        self._file = file
        self._end = end
        self._next = start  # the first byte that is not in the buffer
        self._buffer = b""
        self._used = 0

    def _fill(self, n_bytes: int) -> None:
        n_bytes = max(0, min(max(n_bytes, BUFFER_BYTES), self._end - self._next))
        more = bytearray(n_bytes)
        if more:
            self._file.read_at(self._next, memoryview(more))
        self._buffer = self._buffer[self._used :] + more
        self._used = 0
        self._next += n_bytes

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > MAX_ITEM_BYTES:
            raise ValueError(f"one of its items claims {n_bytes:,} bytes")
        if self._used + n_bytes > len(self._buffer):
            self._fill(n_bytes)
        data = self._buffer[self._used : self._used + n_bytes]
        self._used += len(data)
        return data

    def readline(self) -> bytes:
        while (end := self._buffer.find(b"\n", self._used)) < 0 and self._next < self._end:
            self._fill(len(self._buffer) - self._used)  # doubled, so that all copies are one more
        stop = end + 1 if end >= 0 else len(self._buffer)
        line = self._buffer[self._used : stop]
        self._used = stop
        return line

    def tell(self) -> int:
        return self._next - len(self._buffer) + self._used
