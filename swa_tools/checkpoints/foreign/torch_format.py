"""The format of `torch.save`: where the numbers of the tensors in a file stand.

Today's is a zip archive: a pickle that describes the tensors, and one uncompressed record for each
storage. That of before PyTorch 1.6 is a row of pickles with the storages behind them
(`torch/serialization.py`, `_legacy_save`).
"""

import dataclasses
import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any, cast

from swa_tools.checkpoints.files import Input
from swa_tools.checkpoints.foreign.inert_pickle import BrokenPickleError, read_pickle
from swa_tools.checkpoints.foreign.other_formats import name_of_format, name_of_zip
from swa_tools.checkpoints.foreign.rebuilding import REBUILD, storage_of
from swa_tools.checkpoints.foreign.stored_tensor import Storage, StoredTensor
from swa_tools.checkpoints.foreign.window import BUFFER_BYTES, Window
from swa_tools.errors import CheckpointError

ZIP_START = b"PK\x03\x04"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
"""The first pickle of the old format."""

FOLDER_FLAG = 0x10
"""Of a record's attributes."""

LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a record in a zip archive; the lengths of its name and of its extra field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What a file of `torch.save` holds.

    Attributes:
        loaded: The object, tensors as `StoredTensor`, everything that is not plain as `Inert`.
        places: First byte in the file of each storage and the byte after its last, by key.
    """

    loaded: Any
    places: Mapping[str, tuple[int, int]]

    def first_byte(self, tensor: StoredTensor) -> int:
        """Return where a tensor begins in the file."""
        start, _ = self.places.get(tensor.key, (0, 0))
        return start + tensor.first_byte

    def fault(self, tensor: StoredTensor, file_bytes: int) -> str | None:
        """Return what is wrong with a tensor, or None; see `StoredTensor.fault`."""
        fault = tensor.fault(file_bytes)
        if fault is None and tensor.n_bytes:
            _, last = self.places.get(tensor.key, (0, 0))
            if self.first_byte(tensor) + tensor.span * tensor.itemsize > last:
                return "lies beyond its place in the file (cut off while it was written or copied?)"
        return fault


def read_contents(file: Input, *, start: int = 0, end: int | None = None) -> Contents:
    """Read what a file of `torch.save` holds, tensors as `StoredTensor`.

    Args:
        file: The file, or a larger one that it is a part of.
        start: Where it begins.
        end: Where it ends; None for the end of the file.

    Raises:
        CheckpointError: It is damaged, or something else.
        OSError: The disk fails.
    """
    end = file.n_bytes if end is None else end
    beginning = Window(file, start, end).read(BUFFER_BYTES)
    try:
        if beginning.startswith(ZIP_START):
            return _zip_contents(file, start, end)
        return _old_contents(file, start, end)
    except (BrokenPickleError, zipfile.BadZipFile, struct.error) as error:
        what = str(error)[:200]
        if beginning.startswith(ZIP_START) and "not a zip file" in what:
            what = "it has no end: was it cut off while it was written or copied?"
        problem = name_of_format(file.path, beginning) or (
            "not a checkpoint that can be read: expected safetensors or a file of torch.save, found"
            f" something else or a damaged one ({what})"
        )
        raise CheckpointError(f"{file.path}: {problem}") from error


def _zip_contents(file: Input, start: int, end: int) -> Contents:
    records = _records(file, start, end)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BrokenPickleError("a zip archive without a data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = records.get(f"{folder}byteorder")
    if order is not None and Window(file, *order).read(100) != b"little":
        raise CheckpointError(f"{file.path}: its numbers are big-endian; not supported")
    stream = Window(file, *records[pickles[0]])
    loaded = read_pickle(stream, rebuild=REBUILD, persistent=storage_of)
    data = f"{folder}data/"
    places = {n.removeprefix(data): p for n, p in records.items() if n.startswith(data)}
    return Contents(loaded, places)


def _records(file: Input, first: int, last: int) -> dict[str, tuple[int, int]]:
    """Return where each record of a zip archive stands in the file.

    Raises:
        zipfile.BadZipFile: One is compressed, encrypted or named twice, or two overlap: torch
            writes none of these, and readers would disagree on what the file holds.
        CheckpointError: By their names it is something else.
    """
    try:
        with zipfile.ZipFile(cast(IO[bytes], Window(file, first, last))) as archive:
            listed = archive.infolist()
    except (ValueError, NotImplementedError, EOFError, OverflowError) as error:
        raise zipfile.BadZipFile(str(error)) from error
    problem = name_of_zip([info.filename for info in listed])
    if problem is not None:
        raise CheckpointError(f"{file.path}: {problem}")
    records: dict[str, tuple[int, int]] = {}
    headers = [first + info.header_offset for info in listed]
    sound = [start for start in headers if first <= start <= last]
    file.expect((start, min(start + LOCAL_HEADER.size, last)) for start in sound)
    for info in listed:
        if info.filename.endswith("/") or info.external_attr & FOLDER_FLAG:
            continue  # torch finds nothing in it either
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.flag_bits & 1
            or info.file_size != info.compress_size
        ):
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} is compressed")
        if info.filename in records:
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} stands in it twice")
        if not 0 <= info.header_offset <= last - first:
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} is cut off")
        start = first + info.header_offset
        header = Window(file, start, min(start + LOCAL_HEADER.size, last)).read()
        start += len(header) + sum(LOCAL_HEADER.unpack(header))
        if start + info.file_size > last:
            raise zipfile.BadZipFile(f"its record {info.filename!r:.100} is cut off")
        records[info.filename] = start, start + info.file_size
    end = 0
    for name, (start, stop) in sorted(records.items(), key=lambda item: item[1]):
        if start < end:
            raise zipfile.BadZipFile(f"its record {name!r:.100} overlaps the one before")
        end = stop
    return records


def _old_contents(file: Input, start: int, end: int) -> Contents:
    stream = Window(file, start, end)
    claimed: dict[str, tuple[int, int]] = {}  # number of elements of each storage, their size

    def persistent(reference: Any) -> Any:
        storage = storage_of(reference)
        if isinstance(storage, Storage):
            claimed[storage.key] = reference[4], storage.itemsize
        return storage

    def read(**options: Any) -> Any:
        return read_pickle(stream, rebuild=REBUILD, **options)

    magic = read()
    if magic != MAGIC_NUMBER:
        raise CheckpointError(
            f"{file.path}: a pickle that torch.save did not write ({_described(magic)}); save the"
            " state_dict with torch.save, or as safetensors"
        )
    read()  # the version of the format
    system = read()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"{file.path}: its numbers are big-endian; not supported")
    loaded = read(persistent=persistent)
    keys = read()
    places: dict[str, tuple[int, int]] = {}
    position = start + stream.tell()
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in claimed:
            raise BrokenPickleError("its list of storages names one that no tensor has")
        n_elements, itemsize = claimed[key]
        size = Window(file, position, min(position + 8, end)).read()
        if int.from_bytes(size, "little") != n_elements:
            raise BrokenPickleError(f"its storage {key!r:.100} is damaged or cut off")
        first, position = position + 8, position + 8 + n_elements * itemsize
        places[key] = first, min(position, end)
    return Contents(loaded, places)


def _described(value: Any) -> str:
    name = getattr(value, "name", None)
    return f"it holds {name if isinstance(name, str) else type(value).__name__!r:.100}"
