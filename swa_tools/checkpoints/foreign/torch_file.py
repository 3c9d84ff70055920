"""Files of `torch.save`, read tensor by tensor without torch."""

import contextlib
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.checkpoints.dtypes import numpy_dtype
from swa_tools.checkpoints.files import open_input, span_in
from swa_tools.checkpoints.foreign.stored_tensor import StoredTensor, layout
from swa_tools.checkpoints.foreign.torch_format import read_contents
from swa_tools.checkpoints.foreign.weight_sets import choose_weights
from swa_tools.checkpoints.header import TensorInfo
from swa_tools.checkpoints.names import LIGHTNING_PREFIX
from swa_tools.checkpoints.read_ahead import Span
from swa_tools.errors import CheckpointError


class TorchFile:
    """One file written by `torch.save`; a `TensorFile`."""

    def __init__(self, path: Path, *, entry: str | None = None) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._contiguous: tuple[str, memoryview] | None = None
        self._lock = threading.Lock()
        self._file = open_input(path)
        try:
            self._load(entry)
        except OSError as error:
            self._file.close()
            raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise

    def _load(self, entry: str | None) -> None:
        self._contents = read_contents(self._file)
        weights = choose_weights(self._contents.loaded, entry, where=str(self.path))
        self._stored = weights.tensors
        self.notes = weights.notes
        self.prefix = LIGHTNING_PREFIX if weights.is_lightning else ""
        self.tensors = {name: self._info(name, tensor) for name, tensor in self._stored.items()}
        self.numbers = self._numbers(self._contents.loaded)

    def _info(self, name: str, tensor: StoredTensor) -> TensorInfo:
        """Check what the pickle says of a tensor; its place is counted in the file, not in data."""
        fault = self._contents.fault(tensor, self._file.n_bytes)
        if fault is not None:
            raise CheckpointError(f"{self.path}: tensor {name!r:.200} {fault}")
        start = self._contents.first_byte(tensor)
        return TensorInfo(tensor.dtype, tensor.shape, start, start + tensor.n_bytes)

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
        if not is_real or self._contents.fault(tensor, self._file.n_bytes) is not None:
            return None
        data = self._laid_out(tensor, self._contents.first_byte(tensor))
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

    def place(self, name: str, offset: int, n_bytes: int) -> Span | None:
        """See `TensorFile`; what has to be laid out is read whole."""
        tensor, start = self._stored[name], self.tensors[name].start
        if tensor.is_plain:
            return span_in(self._file, start + offset, start + offset + n_bytes)
        return span_in(self._file, start, start + tensor.span * tensor.itemsize)

    def _laid_out(self, tensor: StoredTensor, start: int) -> memoryview:
        data = bytearray(tensor.span * tensor.itemsize)
        self._file.read_at(start, memoryview(data))
        return layout(tensor, data).data

    def check_unchanged(self) -> None:
        """See `TensorFile`."""
        self._file.check_unchanged()

    def close(self) -> None:
        """See `TensorFile`."""
        self._file.close()
        self._contiguous = None
