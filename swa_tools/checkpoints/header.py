"""The header of a safetensors file: read with suspicion, written in one way only.

A file is an 8-byte little-endian length, a JSON object of that length, and the tensors' bytes
without gaps (https://github.com/huggingface/safetensors#format). Everything that the format
promises is checked here, so that whoever holds a `Header` can rely on it.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets."""

MAX_DIMENSIONS = 64
"""As many as NumPy and torch allow; it also bounds the work on a hostile shape."""

PREFIX_BYTES = 8


class TensorInfo(NamedTuple):
    """Where a tensor stands in its file.

    Attributes:
        dtype: Its name in the format, such as `F32`.
        shape: Its dimensions; `()` for a scalar.
        start, end: Its first byte and the byte after its last, from the beginning of the file.
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
    """A checked header: tensors by name in the order of their bytes, and `__metadata__`."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Return the size in bytes of a tensor, packed types rounded up to whole bytes."""
    return (math.prod(shape) * DTYPES[dtype].bits + 7) // 8


def read_header(descriptor: int, *, where: str) -> Header:
    """Read and check the header of an open safetensors file.

    Args:
        descriptor: File descriptor, read from position 0; its offset is not moved.
        where: The file's name, for errors.

    Raises:
        CheckpointError: The file is not valid safetensors; the message says what is wrong.
    """
    file_bytes = os.fstat(descriptor).st_size
    prefix = os.pread(descriptor, PREFIX_BYTES, 0)
    if len(prefix) < PREFIX_BYTES:
        raise _broken(where, f"expected at least 8 bytes, found {len(prefix)}")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise _broken(where, f"its header claims {length} bytes, the format allows 100 MB")
    if length > file_bytes - PREFIX_BYTES:
        raise _broken(
            where,
            f"its header claims {length} bytes, but only {file_bytes - PREFIX_BYTES} follow"
            " (cut off while it was written or copied?)",
        )
    text = bytearray()
    while len(text) < length:
        part = os.pread(descriptor, length - len(text), PREFIX_BYTES + len(text))
        if not part:
            raise _broken(where, "it became shorter while its header was read")
        text += part
    return parse_header(bytes(text), file_bytes, where=where)


def parse_header(text: bytes, file_bytes: int, *, where: str) -> Header:
    """Check the JSON of a header against the size of its file; see `read_header`."""
    if not text.startswith(b"{"):
        raise _broken(where, "its header does not begin with '{'")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_object_without_duplicates)
    except UnicodeDecodeError as error:
        raise _broken(where, f"its header is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise _broken(where, "its header is nested too deeply") from error
    except ValueError as error:
        raise _broken(where, f"its header is not valid JSON: {error}") from error
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(where, "its __metadata__ is not an object of strings")
    try:
        "".join([*document, *metadata, *metadata.values()]).encode()
    except UnicodeEncodeError as error:
        raise _broken(where, "a name in its header is not valid Unicode") from error
    first = PREFIX_BYTES + len(text)
    tensors = {name: _tensor_info(name, entry, first, where) for name, entry in document.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_offsets(ordered, first, file_bytes, where)
    return Header(ordered, metadata)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add returns None, which is what the expression needs
        raise ValueError(f"the key {duplicate!r} stands in it twice")
    return result


def _tensor_info(name: str, entry: Any, first: int, where: str) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(where, f"tensor {name!r}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _broken(where, f"tensor {name!r}: unknown dtype {dtype!r}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n < 2**63 for n in shape)
    ):
        raise _broken(where, f"tensor {name!r}: its shape is no list of sizes: {shape!r:.60}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(n) is int and 0 <= n < 2**63 for n in offsets)
    ):
        raise _broken(where, f"tensor {name!r}: data_offsets is no pair: {offsets!r:.60}")
    start, end = offsets
    if math.prod(shape) * DTYPES[dtype].bits % 8:
        raise _broken(where, f"tensor {name!r}: its bits do not fill whole bytes")
    expected = tensor_bytes(dtype, shape)
    if end - start != expected:
        raise _broken(
            where,
            f"tensor {name!r}: {dtype} of shape {shape!s:.60} takes {expected!s:.30} bytes,"
            f" its offsets leave {end - start}",
        )
    return TensorInfo(dtype, tuple(shape), first + start, first + end)


def _check_offsets(tensors: Mapping[str, TensorInfo], first: int, file_bytes: int, where: str) -> None:
    position = first
    for name, info in tensors.items():
        if info.start != position:
            problem = "overlaps the one before" if info.start < position else "leaves a hole"
            raise _broken(where, f"tensor {name!r} {problem}: expected byte {position}, found {info.start}")
        position = info.end
    if position != file_bytes:
        raise _broken(
            where,
            f"its tensors end at byte {position}, the file at {file_bytes}"
            + (" (cut off while it was written or copied?)" if position > file_bytes else ""),
        )


def build_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, TensorInfo]]:
    """Lay out a file and return its first bytes and the place of every tensor.

    Wide types come first and names are sorted within a width, as the safetensors library does, so
    that every tensor is aligned; the header is padded to 8 bytes.

    Args:
        tensors: dtype name and shape by tensor name, in any order.
        metadata: Written in sorted order.
    """
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].bits, name))
    document: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position, spans = 0, {}
    for name in order:
        dtype, shape = tensors[name]
        end = position + tensor_bytes(dtype, shape)
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        spans[name] = TensorInfo(dtype, tuple(shape), position, end)
        position = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = PREFIX_BYTES + len(text)
    placed = {
        name: info._replace(start=info.start + first, end=info.end + first)
        for name, info in spans.items()
    }
    return len(text).to_bytes(8, "little") + text, placed


def _broken(where: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{where}: not a valid safetensors file: {problem}")
