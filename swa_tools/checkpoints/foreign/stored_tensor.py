"""Tensors as PyTorch's pickles describe them: where their numbers stand, not the numbers."""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from swa_tools.checkpoints.dtypes import DTYPES, numpy_dtype
from swa_tools.checkpoints.foreign.inert_pickle import Global, Inert, plain_key
from swa_tools.checkpoints.header import MAX_DIMENSIONS

STORAGE_DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
"""The safetensors dtype of each of torch's typed storages; torch's own name where it has none."""

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

MAX_ENCODED_BYTES = 64
"""What is kept of bytes; a number of NumPy's takes 8."""

NUMPY_SCALARS = frozenset({"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"})


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


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *, dtype: str, flags: Any = None
) -> StoredTensor:
    """Check what a pickle says of a tensor as far as its types go."""
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0:
        raise TypeError("a tensor without a storage")
    if not is_sizes(shape) or not is_sizes(strides) or len(shape) != len(strides):
        raise TypeError("a tensor without a shape")
    flags = flags if isinstance(flags, dict) else {}
    return StoredTensor(
        storage,
        dtype,
        tuple(shape),
        tuple(strides),
        offset,
        is_conjugate=flags.get("conj") is True,
        is_negative=flags.get("neg") is True,
    )


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    """Follow torch's `_rebuild_tensor` and `_rebuild_tensor_v2`; `rest`: gradient, hooks, flags."""
    if isinstance(storage, Inert):  # pickle.dump makes bytes of it
        return StoredTensor(None, "float32", (0,), problem="was pickled without torch.save")
    flags = rest[2] if len(rest) > 2 else None
    return _tensor(storage, offset, shape, strides, dtype=storage.dtype, flags=flags)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _gradient: Any,
    _hooks: Any,
    dtype: Any,
    flags: Any = None,
) -> Any:
    return _tensor(storage, offset, shape, strides, dtype=_dtype(dtype), flags=flags)


def _dtype(value: Any) -> str:
    name: str = value.name.removeprefix("torch.")
    if name in DTYPES:
        raise TypeError(f"a dtype that torch lacks, {name}")
    return TORCH_DTYPES.get(name, name)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_without_storage(dtype: Any, shape: Any, *_: Any) -> StoredTensor:
    return StoredTensor(None, _dtype(dtype), tuple(shape) if is_sizes(shape) else ())


def _unreadable(problem: str) -> Callable[..., StoredTensor]:
    return lambda *_: StoredTensor(None, "float32", (0,), problem=problem)


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
    """Return the tensor in a subclass of Tensor, where it is an ordinary one."""
    rebuild = REBUILD.get(function.name) if isinstance(function, Global) else None
    if rebuild is None or rebuild is _rebuild_from_type or not isinstance(arguments, tuple):
        return Inert("torch.Tensor", arguments)
    return rebuild(*arguments)


def _dict(items: Any = (), *_: Any) -> dict[Any, Any]:
    """Python 2 gives an OrderedDict's items as a list of lists, Counter a dict.

    They are used up: a hostile pickle could have the same ones copied again and again.
    """
    if isinstance(items, dict):
        return items
    if not isinstance(items, list):
        return {}
    result = {plain_key(key): value for key, value in items}
    items.clear()
    return result


def _numpy_scalar(dtype: Any, data: Any = b"", *_: Any) -> Any:
    """Return a number of NumPy's as Python's own."""
    code = dtype.arguments[0] if isinstance(dtype, Inert) and dtype.arguments else None
    is_known = isinstance(code, str) and code in NUMPY_SCALARS and isinstance(data, bytes)
    if not is_known or np.dtype(f"<{code}").itemsize != len(data):
        return Inert("numpy.generic")
    return np.frombuffer(data, f"<{code}")[0].item()


def _encode(text: Any, _encoding: Any = None) -> Any:
    """Return the bytes that Python 3 writes into a pickle of protocol 2 in this way.

    Many are left behind: a hostile pickle could have the same ones made again and again.
    """
    if len(text) > MAX_ENCODED_BYTES:
        return Inert("builtins.bytes", (text,))
    return text.encode("latin-1")


_SPARSE = _unreadable("is sparse or quantized; dense expected")
_WRAPPED = _unreadable("is wrapped in a class of its own; save the plain tensor")

REBUILD: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": lambda *parts: Inert("builtins.bytes", parts) if parts else b"",
    "builtins.dict": _dict,
    "collections.Counter": _dict,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda *_: {},
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.Size": lambda sizes=(), *_: sizes,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_parameter,
    "torch._utils._rebuild_device_tensor_from_numpy": _WRAPPED,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_without_storage,
    "torch._utils._rebuild_nested_tensor": _SPARSE,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._utils._rebuild_qtensor": _SPARSE,
    "torch._utils._rebuild_sparse_csr_tensor": _SPARSE,
    "torch._utils._rebuild_sparse_tensor": _SPARSE,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_wrapper_subclass": _WRAPPED,
}
"""What is made of the calls in a pickle of torch's."""


def storage_of(reference: Any) -> Any:
    """Return the storage that a persistent id of torch's names.

    Args:
        reference: `("storage", type, key, device, n_elements)`; old files have a sixth part, None
            or a view: `(key, first, n_elements)`. They also refer to classes in this way:
            `("module", class, file, source)`.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(reference, tuple) and len(reference) == 4 and reference[0] == "module":
        return reference[1]
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise TypeError("it refers to something that is no storage")
    kind, key, device, n_elements = reference[1:5]
    name = kind.name.rpartition(".")[2] if isinstance(kind, Global) else type(kind).__name__
    if not isinstance(key, str) or not is_sizes((n_elements,)):
        raise TypeError("a storage without a key or size")
    first = 0
    if len(reference) > 5 and isinstance(reference[5], tuple):
        _, first, n_elements = reference[5]
        if not is_sizes((first, n_elements)):
            raise TypeError("a view of a storage without a place")
    if name not in STORAGE_DTYPES and name not in OTHER_ITEMSIZES:
        raise TypeError(f"a storage of unknown type {name!r:.100}")
    dtype = STORAGE_DTYPES.get(name, name)
    return Storage(key, dtype, n_elements, first, device if isinstance(device, str) else "")


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
