"""The element types of the safetensors format, and their NumPy counterparts."""

import dataclasses
import functools

import numpy as np

from swa_tools.errors import CheckpointError


@dataclasses.dataclass(frozen=True, slots=True)
class DtypeInfo:
    """One element type.

    Attributes:
        bits: Width of an element; types of 4 and 6 bits are packed without gaps.
        numpy: Name of the dtype in NumPy or ml_dtypes; None if neither can hold it packed.
        averaged: Whether it holds ordinary numbers, which an average makes sense of.
    """

    bits: int
    numpy: str | None
    averaged: bool = False


DTYPES = {
    "F64": DtypeInfo(64, "float64", averaged=True),
    "F32": DtypeInfo(32, "float32", averaged=True),
    "F16": DtypeInfo(16, "float16", averaged=True),
    "BF16": DtypeInfo(16, "bfloat16", averaged=True),
    "C64": DtypeInfo(64, "complex64", averaged=True),
    "F8_E4M3": DtypeInfo(8, "float8_e4m3fn", averaged=True),
    "F8_E5M2": DtypeInfo(8, "float8_e5m2", averaged=True),
    "F8_E4M3FNUZ": DtypeInfo(8, "float8_e4m3fnuz", averaged=True),
    "F8_E5M2FNUZ": DtypeInfo(8, "float8_e5m2fnuz", averaged=True),
    "F8_E8M0": DtypeInfo(8, "float8_e8m0fnu"),
    "F6_E2M3": DtypeInfo(6, None),
    "F6_E3M2": DtypeInfo(6, None),
    "F4": DtypeInfo(4, None),
    "I64": DtypeInfo(64, "int64"),
    "I32": DtypeInfo(32, "int32"),
    "I16": DtypeInfo(16, "int16"),
    "I8": DtypeInfo(8, "int8"),
    "U64": DtypeInfo(64, "uint64"),
    "U32": DtypeInfo(32, "uint32"),
    "U16": DtypeInfo(16, "uint16"),
    "U8": DtypeInfo(8, "uint8"),
    "BOOL": DtypeInfo(8, "bool"),
}
"""By the name that safetensors headers use."""


@functools.cache
def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """Return the NumPy dtype of a safetensors dtype; ml_dtypes provides what NumPy lacks.

    Raises:
        CheckpointError: Neither has it (the packed types of 4 and 6 bits).
    """
    numpy_name = DTYPES[name].numpy
    if numpy_name is None:
        raise CheckpointError(
            f"dtype {name} is packed: NumPy has no array of it; read its bytes instead"
        )
    if "float8" in numpy_name or numpy_name == "bfloat16":
        import ml_dtypes  # only files that need it pay for the import

        scalar: type[np.generic] = getattr(ml_dtypes, numpy_name)
        return np.dtype(scalar)
    return np.dtype(numpy_name)


def safetensors_dtype(dtype: np.dtype[np.generic]) -> str:
    """Return the safetensors name of a NumPy or ml_dtypes dtype.

    Raises:
        CheckpointError: The format has no such type.
    """
    for name, info in DTYPES.items():
        if info.numpy == dtype.name:
            return name
    raise CheckpointError(f"safetensors has no dtype for NumPy's {dtype.name}")
