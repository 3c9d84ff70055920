"""Files that PyTorch pickled. The only module here that imports torch.

Loading is restricted to tensors, containers and numbers (`weights_only=True`); of classes,
`argparse.Namespace` alone is allowed, because timm's and torchvision's trainers store one.
"""

import argparse
import contextlib
import math
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from swa_tools.checkpoints.files import InputFile
from swa_tools.checkpoints.header import MAX_DIMENSIONS, TensorInfo
from swa_tools.errors import CheckpointError

TORCH_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The safetensors name of each torch dtype that the format has."""
if hasattr(torch, "float8_e8m0fnu"):  # from 2.7 on
    TORCH_DTYPES[torch.float8_e8m0fnu] = "F8_E8M0"


ZIP_START = b"PK\x03\x04"


class PickledFile:
    """One file written by `torch.save`; a `TensorFile`.

    The zip format is mapped and read tensor by tensor; the old format, which cannot be mapped,
    is held in memory whole.
    """

    def __init__(self, path: Path, *, entry: str | None = None) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self._contiguous: tuple[str, torch.Tensor] | None = None
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
        is_mapped = self._file.read(len(ZIP_START)) == ZIP_START
        loaded = _load(self.path, mmap=is_mapped)
        self._state_dict = _choose(_state_dicts(loaded, self.path), entry, self.path)
        self.numbers = _numbers(loaded)
        self.tensors = {
            name: _tensor_info(name, tensor, self._file.n_bytes, self.path)
            for name, tensor in self._state_dict.items()
        }
        if not is_mapped:
            megabytes = f"{self._file.n_bytes / 1e6:,.1f} MB"
            self.notes = (f"torch.save's old format is held in memory whole: {megabytes}",)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `TensorFile`."""
        self.check_unchanged()  # where a mapped file became shorter, to read is to be killed
        try:
            flat = self._bytes_of(name)
        except (RuntimeError, MemoryError) as error:
            raise CheckpointError(
                f"{self.path}: cannot lay out tensor {name!r}: {_first_line(error)}"
            ) from error
        buffer[:] = flat[offset : offset + len(buffer)].numpy().data

    def _bytes_of(self, name: str) -> torch.Tensor:
        tensor = self._state_dict[name]
        if tensor.numel() == 0:
            return torch.empty(0, dtype=torch.uint8)
        if tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
            return tensor.reshape(-1).view(torch.uint8)
        with self._lock:  # a channels_last tensor is laid out once, not once for every block of it
            if self._contiguous is None or self._contiguous[0] != name:
                plain = tensor.resolve_conj().resolve_neg().contiguous()
                self._contiguous = name, plain.reshape(-1).view(torch.uint8)
            return self._contiguous[1]

    def check_unchanged(self) -> None:
        """See `TensorFile`."""
        self._file.check_unchanged()

    def close(self) -> None:
        """See `TensorFile`; a mapping ends with its last tensor."""
        self._file.close()
        self._state_dict = {}
        self._contiguous = None


def _load(path: Path, *, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # meant for who wrote the file
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle can fail in any way; none of them is our bug
        text = str(error)
        found = re.search(r"(?:GLOBAL|global|class) ([\w.]+\.[\w.]+)", text)
        if "weights_only" in text.lower() and found:
            raise CheckpointError(
                f"{path}: refused: it holds a Python object besides tensors, {found[1]}, and"
                " loading that could run code; save its state_dict alone, or as safetensors"
            ) from error
        raise CheckpointError(
            f"{path}: not a checkpoint that can be read: expected safetensors or a file of"
            f" torch.save, found something else or a damaged one ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _state_dicts(loaded: Any, path: Path) -> dict[str, Mapping[str, torch.Tensor]]:
    """Find the sets of weights in a loaded object: under its keys, or else the object itself."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path}: expected a dictionary of tensors, found {type(loaded).__name__}"
        )
    entries = {str(key): value for key, value in loaded.items() if _is_state_dict(value)}
    if entries:
        return entries
    if _is_state_dict(loaded):
        return {"": loaded}
    raise CheckpointError(
        f"{path}: no state dict in it: expected tensors by name, found {_listed(map(str, loaded))}"
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def _choose(
    entries: Mapping[str, Mapping[str, torch.Tensor]], entry: str | None, path: Path
) -> Mapping[str, torch.Tensor]:
    names = _listed(name or "(the file itself)" for name in entries)
    if entry is not None:
        if entry not in entries:
            raise CheckpointError(f"{path}: no weights under {entry!r}; it holds: {names}")
        return entries[entry]
    if len(entries) > 1:
        raise CheckpointError(
            f"{path}: several sets of weights in one file: {names}; choose one with --entry"
        )
    return next(iter(entries.values()))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(f"{name!r:.60}" for name in names[:12]) + more


def _tensor_info(name: str, tensor: torch.Tensor, file_bytes: int, path: Path) -> TensorInfo:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{path}: the name {name!r} is not valid Unicode") from error
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise CheckpointError(f"{path}: tensor {name!r} is sparse or quantized; dense expected")
    if tensor.dtype not in TORCH_DTYPES:
        raise CheckpointError(f"{path}: tensor {name!r} has dtype {tensor.dtype}; not supported")
    if tensor.device.type != "cpu":
        raise CheckpointError(f"{path}: tensor {name!r} holds no data (device {tensor.device})")
    n_bytes = math.prod(tensor.shape) * tensor.element_size()
    if n_bytes > file_bytes or tensor.dim() > MAX_DIMENSIONS:
        raise CheckpointError(
            f"{path}: tensor {name!r} claims {n_bytes} bytes in {tensor.dim()} dimensions,"
            f" in a file of {file_bytes} bytes; if it was expanded, save it after .contiguous()"
        )
    return TensorInfo(TORCH_DTYPES[tensor.dtype], tuple(tensor.shape), 0, n_bytes)


def _numbers(loaded: Mapping[Any, Any]) -> dict[str, float]:
    """Find `epoch`, `best_acc1`, `metric` and their like beside the weights."""
    found = {}
    for key, value in loaded.items():
        with contextlib.suppress(RuntimeError, OverflowError):  # no data; too large for a float
            is_scalar = isinstance(value, torch.Tensor) and value.numel() == 1
            number = value.item() if is_scalar else value
            if isinstance(key, str) and isinstance(number, int | float):
                found[key] = float(number)
    return found
