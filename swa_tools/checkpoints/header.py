"""The header of a safetensors file: read with suspicion, written in one way only.

A file is an 8-byte little-endian length, a JSON object of that length, and the tensors' bytes
without gaps (https://github.com/huggingface/safetensors#format). Everything that the format
promises is checked here, so that whoever holds a `Header` can rely on it.
"""

import json
import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets."""

MAX_DIMENSIONS = 32
"""As many as NumPy 1 allows; it also bounds the work on a hostile shape."""

MAX_TENSOR_BITS = 2**63 * 8
"""NumPy counts bytes in 64 bits."""

PREFIX_BYTES = 8

JSON_BLANKS = b" \t\r\n"
"""Some writers pad before the object; the safetensors library reads such files."""


class TensorInfo(NamedTuple):
    """Where a tensor stands in its file.

    Attributes:
        dtype: Its name in the format, such as `F32`.
        shape: Its dimensions; `()` for a scalar.
        start, end: Its first byte and the byte after its last, from the beginning of the data, so
            that files which differ in their metadata alone have equal layouts.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def n_bytes(self) -> int:
        """Its size in bytes."""
        return self.end - self.start

    @property
    def n_elements(self) -> int:
        """The product of its dimensions."""
        return math.prod(self.shape)


class Header(NamedTuple):
    """A checked header.

    Attributes:
        tensors: By name, in the order of their bytes.
        metadata: The file's `__metadata__`.
        first: Position in the file at which the data begins.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    first: int


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Return the size in bytes of a tensor, packed types rounded up to whole bytes."""
    return (math.prod(shape) * DTYPES[dtype].bits + 7) // 8


class Source(Protocol):
    """What a header is read from."""

    @property
    def n_bytes(self) -> int:
        """Its size."""

    def read_at(self, position: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from a position on."""


def read_header(file: Source, *, where: str) -> Header:
    """Read and check the header of an open safetensors file.

    Args:
        file: The file; its offset is not moved.
        where: The file's name, for errors.

    Raises:
        CheckpointError: The file is not valid safetensors; the message says what is wrong.
        OSError: The disk fails.
    """
    file_bytes = file.n_bytes
    if file_bytes < PREFIX_BYTES:
        raise _broken(where, f"expected at least 8 bytes, found {file_bytes}")
    length = int.from_bytes(_read(file, PREFIX_BYTES, 0), "little")
    if length > MAX_HEADER_BYTES:
        raise _broken(where, f"its header claims {length} bytes, the format allows 100 MB")
    if length > file_bytes - PREFIX_BYTES:
        raise _broken(
            where,
            f"its header claims {length} bytes, but only {file_bytes - PREFIX_BYTES} follow"
            " (cut off while it was written or copied?)",
        )
    return parse_header(_read(file, length, PREFIX_BYTES), file_bytes, where=where)


def _read(file: Source, n_bytes: int, position: int) -> bytes:
    data = bytearray(n_bytes)
    file.read_at(position, memoryview(data))
    return bytes(data)


def parse_header(text: bytes, file_bytes: int, *, where: str) -> Header:
    """Check the JSON of a header against the size of its file; see `read_header`."""
    if not text.lstrip(JSON_BLANKS).startswith(b"{"):
        raise _broken(where, "its header does not begin with '{'")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_object_without_duplicates)
    except UnicodeDecodeError as error:
        raise _broken(where, f"its header is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise _broken(where, "its header is nested too deeply") from error
    except ValueError as error:
        raise _broken(where, f"its header is not valid JSON: {error}") from error
    metadata = document.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(where, "its __metadata__ is not an object of strings")
    try:
        "".join([*document, *metadata, *metadata.values()]).encode()
    except UnicodeEncodeError as error:
        raise _broken(where, "a name in its header is not valid Unicode") from error
    first = PREFIX_BYTES + len(text)
    tensors = {name: _tensor_info(name, entry, where) for name, entry in document.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_offsets(ordered, file_bytes - first, where)
    return Header(ordered, metadata, first)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add returns None, which is what the expression needs
        raise ValueError(f"the key {_quoted(duplicate)} stands in it twice")
    return result


def _tensor_info(name: str, entry: Any, where: str) -> TensorInfo:
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise _broken_tensor(where, name, "expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _broken_tensor(where, name, f"unknown dtype {reprlib.repr(dtype)}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _broken_tensor(where, name, f"its shape is no list of sizes: {reprlib.repr(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _broken_tensor(where, name, f"data_offsets is no pair: {reprlib.repr(offsets)}")
    bits = DTYPES[dtype].bits
    n_elements = math.prod(shape)
    # What is too large is so without its zeros too: NumPy has no array of 2^40 × 2^40 × 0.
    if (n_elements or math.prod(n for n in shape if n)) * bits >= MAX_TENSOR_BITS:
        raise _broken_tensor(where, name, f"its shape is too large: {reprlib.repr(shape)}")
    expected, rest = divmod(n_elements * bits, 8)
    if rest:
        raise _broken_tensor(where, name, "its bits do not fill whole bytes")
    start, end = offsets
    if end - start != expected:
        raise _broken_tensor(
            where,
            name,
            f"{dtype} of shape {reprlib.repr(shape)} takes {expected} bytes, its offsets leave"
            f" {end - start}",
        )
    return TensorInfo(dtype, tuple(shape), start, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= sys.maxsize for n in value)


def _check_offsets(tensors: Mapping[str, TensorInfo], data_bytes: int, where: str) -> None:
    position = 0
    for name, info in tensors.items():
        if info.start != position:
            problem = "overlaps the one before" if info.start < position else "leaves a hole"
            raise _broken_tensor(
                where, name, f"it {problem}: expected offset {position}, found {info.start}"
            )
        position = info.end
    if position != data_bytes:
        raise _broken(
            where,
            f"its tensors take {position} bytes, the file has {data_bytes} for them"
            + (" (cut off while it was written or copied?)" if position > data_bytes else ""),
        )


def build_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, TensorInfo]]:
    """Lay out a file; return all that stands before its data, and the place of every tensor.

    Wide types come first and names are sorted within a width, as the safetensors library does, so
    that every tensor is aligned; the header is padded to 8 bytes.

    Args:
        tensors: dtype name and shape by tensor name, in any order.
        metadata: Written in sorted order.

    Raises:
        CheckpointError: A name cannot stand in such a file.
    """
    if "__metadata__" in tensors:
        raise CheckpointError("safetensors has no tensor of the name '__metadata__'")
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].bits, name))
    document: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position, placed = 0, {}
    for name in order:
        dtype, shape = tensors[name]
        end = position + tensor_bytes(dtype, shape)
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        placed[name] = TensorInfo(dtype, tuple(shape), position, end)
        position = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, placed


def _broken(where: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{where}: not a valid safetensors file: {problem}")


def _broken_tensor(where: str, name: str, problem: str) -> CheckpointError:
    return _broken(where, f"tensor {_quoted(name)}: {problem}")


def _quoted(name: str) -> str:
    return f"{name!r:.200}"  # a hostile name can be as long as the header
