"""Numbers from their stored formats to what NumPy adds in float64, and back."""

import functools

import numpy as np

from swa_tools.checkpoints.dtypes import numpy_dtype


def convert(mean: np.ndarray, dtype: str) -> np.ndarray:
    """Convert float64 numbers as torch's `.to` does: to the narrow dtypes by way of float32.

    Args:
        mean: float64; complex numbers as pairs of real and imaginary part.
        dtype: The target, as safetensors names it.
    """
    if dtype == "F64":
        return mean
    single = mean.astype(np.float32)
    return single if dtype in ("F32", "C64") else single.astype(numpy_dtype(dtype))


def decode(data: memoryview, dtype: str, term: np.ndarray) -> np.ndarray:
    """Return stored numbers as NumPy can add them: in place, or converted into `term`.

    Args:
        data: The bytes.
        dtype: As safetensors names it; complex numbers become pairs of real numbers.
        term: float64, with room for as many numbers.
    """
    if dtype == "C64":
        return np.frombuffer(data, np.float32)
    if dtype.startswith("F8"):
        codes = np.frombuffer(data, np.uint8)
        return np.take(_float8_values(dtype), codes, out=term[: len(codes)], mode="clip")
    values: np.ndarray = np.frombuffer(data, numpy_dtype(dtype))
    if dtype == "BF16":
        term = term[: len(values)]
        np.copyto(term, values)
        return term
    return values


@functools.cache
def _float8_values(dtype: str) -> np.ndarray:
    """Return the value of each of the 256 codes, (256,) float64: a look-up is the fastest way."""
    return np.arange(256, dtype=np.uint8).view(numpy_dtype(dtype)).astype(np.float64)
