"""Tensors as PyTorch's pickles describe them: where their numbers stand, not the numbers."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np

from swa_tools.checkpoints.dtypes import DTYPES, numpy_dtype
from swa_tools.checkpoints.header import MAX_DIMENSIONS

TORCH_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""The safetensors name of each torch dtype that the format has."""

OTHER_ITEMSIZES = {
    "complex128": 16,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
    "QInt32Storage": 4,
}
"""Bytes of an element in the storages that are not read, but stand between others."""

MAX_SIZES = 100
"""Dimensions that are looked at; those of a tensor that can be read are fewer."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of numbers in a file.

    Attributes:
        key: Its name in the file.
        dtype: Of its elements, as in `TORCH_DTYPES`' values; another name where there is none.
        n_elements: How many it claims to have.
        first: Where it begins, in elements of the storage that `key` names; old files have views.
        device: Where it was: `cpu`, `cuda:0`, `meta`.
    """

    key: str
    dtype: str
    n_elements: int
    first: int = 0
    device: str = "cpu"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return OTHER_ITEMSIZES.get(self.dtype) or DTYPES[self.dtype].bits // 8

    @property
    def n_bytes(self) -> int:
        """Its size in bytes."""
        return self.n_elements * self.itemsize


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A view of a storage; nothing of it has been checked.

    Attributes:
        storage: Where its numbers are; None where the file does not hold them as such.
        dtype: As in `TORCH_DTYPES`' values; torch's own name where safetensors has none.
        shape: Its dimensions.
        strides: Distance of neighbours along each dimension, in elements.
        offset: Its first element, in elements of the storage.
        is_conjugate, is_negative: Whether the numbers have to be conjugated, negated.
        problem: Why it cannot be read; None if it can.
    """

    storage: Storage | None
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    offset: int = 0
    is_conjugate: bool = False
    is_negative: bool = False
    problem: str | None = None

    @property
    def n_bytes(self) -> int:
        """Its size in bytes, once `fault` has found nothing."""
        return math.prod(self.shape) * self.itemsize

    @property
    def bytes_without_zeros(self) -> int:
        """What it would take without dimensions of zero; NumPy limits that too."""
        return math.prod(n for n in self.shape if n) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].bits // 8

    @property
    def key(self) -> str:
        """The name of its storage."""
        return self.storage.key if self.storage is not None else ""

    @property
    def first_byte(self) -> int:
        """Where it begins in its storage."""
        first = self.storage.first * self.storage.itemsize if self.storage is not None else 0
        return first + self.offset * self.itemsize

    @property
    def is_plain(self) -> bool:
        """Whether its numbers stand in the order of its dimensions, without gaps, as they are."""
        if self.is_conjugate or self.is_negative:
            return False
        expected = 1
        for size, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def span(self) -> int:
        """Number of elements of the storage from its first to its last, both included."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return sum((size - 1) * stride for size, stride in steps) + 1

    @property
    def could_be_a_weight(self) -> bool:
        """Whether it is more than one number, and they have fractions, unlike counters."""
        is_whole = self.dtype in DTYPES and not DTYPES[self.dtype].averaged
        return not is_whole and math.prod(self.shape) != 1

    def fault(self, file_bytes: int) -> str | None:
        """Return what is wrong with it, after "tensor 'x' "; None if it can be read.

        Args:
            file_bytes: Size of the file; no tensor may claim more.
        """
        if self.problem is not None:
            return self.problem
        if self.dtype not in DTYPES:
            return f"has dtype {self.dtype!r:.100}; not supported"
        if self.storage is None or self.storage.device == "meta":
            return "holds no data (device meta)"
        too_large = self.n_bytes > file_bytes or self.bytes_without_zeros > sys.maxsize
        if too_large or len(self.shape) > MAX_DIMENSIONS:
            return (
                f"claims {self.n_bytes} bytes in {len(self.shape)} dimensions, in a file of"
                f" {file_bytes} bytes; if it was expanded, save it after .contiguous()"
            )
        if (self.offset + self.span) * self.itemsize > self.storage.n_bytes:
            return f"reaches beyond its storage of {self.storage.n_bytes} bytes"
        if self.is_negative and not DTYPES[self.dtype].averaged:
            return f"is a negated view of {self.dtype}; not supported"
        return None


def is_sizes(value: Any) -> bool:
    """Tell whether something from a pickle is a shape that a tensor could have."""
    return (
        isinstance(value, tuple | list)
        and len(value) <= MAX_SIZES
        and all(type(n) is int and 0 <= n <= sys.maxsize for n in value)
    )


def layout(tensor: StoredTensor, data: bytes | bytearray) -> np.ndarray:
    """Return the bytes of a tensor's numbers in the order of its dimensions.

    Args:
        tensor: Checked by `fault`.
        data: The `span` of its storage.

    Returns:
        uint8, `(n_bytes,)`.
    """
    elements = np.frombuffer(data, f"<u{tensor.itemsize}")
    pairs = zip(tensor.shape, tensor.strides, strict=True)
    strides = [stride * tensor.itemsize if size > 1 else 0 for size, stride in pairs]
    view = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False)
    numbers = np.ascontiguousarray(view).reshape(-1).view(numpy_dtype(tensor.dtype))
    if tensor.is_conjugate:
        numbers = numbers.conj()
    if tensor.is_negative:
        numbers = -numbers
    return numbers.view(np.uint8)
