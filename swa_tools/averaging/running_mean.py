"""The running mean of checkpoints that are added one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.averaging.average import open_all
from swa_tools.averaging.conversion import convert
from swa_tools.averaging.plan import plan_average
from swa_tools.averaging.rules import action_of, check_names, differs, unequal
from swa_tools.averaging.weighting import Uniform
from swa_tools.checkpoints import Checkpoint
from swa_tools.checkpoints.dtypes import safetensors_dtype
from swa_tools.errors import CheckpointError


class RunningMean:
    """The mean of the checkpoints added so far, bit for bit that of `average_checkpoints`.

    It keeps the sum of each averaged tensor in float64 (complex128 for complex numbers) and
    converts once, when the mean is taken, as torch's `.to` does. `action_of` says which tensors
    are averaged; `num_batches_tracked` comes from the checkpoint added last, and every other
    tensor must be equal in all of them. Memory does not grow with the number of checkpoints.

    A checkpoint is a mapping of arrays by name, in the dtypes of NumPy and ml_dtypes. It is not
    changed, and arrays that come out of here share no memory with those that went in.

    Args:
        allow_nonfinite: Whether NaN and Inf may pass.

    Attributes:
        n_averaged: How many checkpoints have been added.
    """

    def __init__(self, *, allow_nonfinite: bool = False) -> None:
        self.n_averaged = 0
        self._allow_nonfinite = allow_nonfinite
        self._first = ""
        self._dtypes: dict[str, str] = {}
        self._sums: dict[str, np.ndarray] = {}
        self._copies: dict[str, np.ndarray] = {}

    @np.errstate(all="ignore")  # NaN and Inf are looked for, not warned about
    def add(self, arrays: Mapping[str, np.ndarray], *, where: str) -> None:
        """Add a checkpoint.

        Args:
            arrays: Its tensors by name.
            where: The checkpoint's own name, for errors.

        Raises:
            CheckpointError: It differs from the first in its names, shapes or dtypes or in a
                tensor that must be equal in all, or holds NaN or Inf. It does not count then.
        """
        dtypes = self._check(arrays, where)
        if not self.n_averaged:
            self._first, self._dtypes = where, dtypes
        for name, array in arrays.items():
            if action_of(name, dtypes[name]) != "average":
                self._copies[name] = array.copy()
            elif name in self._sums:
                self._sums[name] += array
            else:
                self._sums[name] = _widen(array)
        self.n_averaged += 1

    @np.errstate(all="ignore")
    def mean(self) -> dict[str, np.ndarray]:
        """Return the mean in the checkpoints' own dtypes; an empty one before the first."""
        return {
            name: _divide(self._sums[name], self.n_averaged, dtype)
            if name in self._sums
            else self._copies[name].copy()
            for name, dtype in self._dtypes.items()
        }

    @np.errstate(all="ignore")
    def mean_with(self, arrays: Mapping[str, np.ndarray], *, where: str) -> dict[str, np.ndarray]:
        """Return what the mean would be after `add`, and change nothing.

        Raises:
            CheckpointError: As `add`.
        """
        means = {}
        for name, dtype in self._check(arrays, where).items():
            if action_of(name, dtype) == "average":
                total = _widen(arrays[name])
                if name in self._sums:
                    total += self._sums[name]
                means[name] = _divide(total, self.n_averaged + 1, dtype)
            else:
                means[name] = arrays[name].copy()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs; its arrays are not copied."""
        return {
            "n_averaged": self.n_averaged,
            "first": self._first,
            "dtypes": dict(self._dtypes),
            "sums": dict(self._sums),
            "copies": dict(self._copies),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another mean; its arrays are copied."""
        self.n_averaged, self._first = state["n_averaged"], state["first"]
        self._dtypes = dict(state["dtypes"])
        self._sums = {name: array.copy() for name, array in state["sums"].items()}
        self._copies = {name: array.copy() for name, array in state["copies"].items()}

    def _check(self, arrays: Mapping[str, np.ndarray], where: str) -> dict[str, str]:
        """Check that a checkpoint belongs with the others; return its dtypes by name."""
        dtypes = {name: safetensors_dtype(array.dtype) for name, array in arrays.items()}
        if self.n_averaged:
            check_names(dtypes.keys(), self._dtypes.keys(), where=where, first=self._first)
        for name, array in arrays.items():
            is_averaged = action_of(name, dtypes[name]) == "average"
            if self.n_averaged:
                self._check_against_first(name, array, dtypes[name], where)
            if is_averaged and not self._allow_nonfinite and not np.isfinite(array).all():
                raise CheckpointError(
                    f"{where}: tensor {name!r} holds NaN or Inf; leave this checkpoint out"
                )
        return dtypes

    def _check_against_first(self, name: str, array: np.ndarray, dtype: str, where: str) -> None:
        expected = self._dtypes[name]
        if dtype != expected:
            raise differs(name, "dtype", dtype, expected=expected, where=where, first=self._first)
        kept = self._sums[name] if name in self._sums else self._copies[name]
        if array.shape != kept.shape:
            raise differs(
                name, "shape", array.shape, expected=kept.shape, where=where, first=self._first
            )
        if action_of(name, dtype) == "equal" and array.tobytes() != kept.tobytes():
            raise unequal(name, dtype, where=where, first=self._first)


def iterate_running(
    paths: Sequence[str | Path], *, reverse: bool = False, entry: str | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the average of the first 1, 2, …, N checkpoints, reading every byte once.

    Args:
        paths: The checkpoints, in their order.
        reverse: Whether to yield the averages of the last 1, 2, …, N instead.
        entry: Which weights to take from pickled files that hold several.

    Yields:
        Arrays by name, the caller's to keep; tied names share theirs. Beside the sums in float64,
        one checkpoint is in memory at a time.

    Raises:
        CheckpointError: As `average_checkpoints`.
    """
    with open_all(paths, entry=entry) as checkpoints:
        plan = plan_average(checkpoints, Uniform())  # names, shapes and dtypes of all, beforehand
        counters = [tensor.name for tensor in plan.tensors if tensor.action == "last"]
        running = RunningMean()
        for checkpoint in reversed(checkpoints) if reverse else checkpoints:
            running.add(_arrays(checkpoint), where=str(checkpoint.path))
            means = running.mean()
            if reverse:
                means |= {name: checkpoints[-1].read(name) for name in counters}
            yield means | {name: means[target] for name, target in plan.ties.items()}


def _arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    checkpoint.will_read_all()
    arrays = {name: checkpoint.read(name) for name in checkpoint.tensors}
    checkpoint.check_unchanged()
    return arrays


def _widen(array: np.ndarray) -> np.ndarray:
    """Return a copy in float64, or in complex128."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, order="C")


def _divide(total: np.ndarray, n: int, dtype: str) -> np.ndarray:
    """Return the mean of a sum of n, in a dtype as safetensors names it."""
    mean = convert(total.reshape(-1).view(np.float64) / n, dtype)
    return (mean.view(np.complex64) if dtype == "C64" else mean).reshape(total.shape)
