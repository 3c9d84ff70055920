"""What is made of the calls in a pickle of torch's: tensors, plain containers, numbers.

The arguments come from the file and are not trusted: each is checked before it is used.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.checkpoints.foreign.inert import Global, Inert, plain_key
from swa_tools.checkpoints.foreign.stored_tensor import (
    OTHER_ITEMSIZES,
    TORCH_DTYPES,
    Storage,
    StoredTensor,
    is_sizes,
)

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

MAX_ENCODED_BYTES = 64
"""What is kept of bytes; a number of NumPy's takes 8."""

NUMPY_SCALARS = frozenset({"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"})


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
