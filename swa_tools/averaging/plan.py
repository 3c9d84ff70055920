"""What an average will do, from headers alone: do these checkpoints belong together, and how."""

import dataclasses
import math
from collections.abc import Sequence

from swa_tools.averaging.rules import (
    RUNNING_STATISTICS,
    Action,
    TensorRules,
    action_of,
    check_names,
    differs,
)
from swa_tools.averaging.weighting import Weighting
from swa_tools.checkpoints import Checkpoint
from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.checkpoints.header import TensorInfo, tensor_bytes
from swa_tools.checkpoints.sharded import Layout
from swa_tools.errors import CheckpointError


@dataclasses.dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor.

    Attributes:
        name: Its name, the same in all checkpoints.
        dtypes: Its dtype in each checkpoint.
        shape: Its shape, the same in all.
        output_dtype: Its dtype in the output.
        action: What becomes of it; see `rules.Action`.
    """

    name: str
    dtypes: tuple[str, ...]
    shape: tuple[int, ...]
    output_dtype: str
    action: Action

    @property
    def n_elements(self) -> int:
        """The product of its dimensions."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, slots=True)
class AveragePlan:
    """What will be read and written.

    Attributes:
        checkpoints: The open sources, in order.
        weighting: The name of the weighting.
        coefficients: The factor of each source; their weighted sum is divided by `divisor`.
        tensors: What becomes of each tensor, in the order of the first source's bytes.
        ties: Names that stand for another tensor's.
        rules: Which tensors were left out or taken from the last source.
    """

    checkpoints: tuple[Checkpoint, ...]
    weighting: str
    coefficients: tuple[float, ...]
    tensors: tuple[TensorPlan, ...]
    ties: dict[str, str]
    rules: TensorRules

    @property
    def divisor(self) -> float:
        """The sum of the coefficients."""
        return math.fsum(self.coefficients)

    @property
    def layout(self) -> Layout:
        """What the output consists of."""
        return {tensor.name: (tensor.output_dtype, tensor.shape) for tensor in self.tensors}

    @property
    def leaves_out(self) -> bool:
        """Whether a source has tensors that the output has not."""
        return any(len(one.tensors) > len(self.tensors) for one in self.checkpoints)

    @property
    def bytes_read(self) -> int:
        """Size of all that is read of the sources."""
        return sum(
            tensor_bytes(dtype, tensor.shape) for tensor in self.tensors for dtype in tensor.dtypes
        )

    @property
    def bytes_written(self) -> int:
        """Size of the output's tensors."""
        return sum(tensor_bytes(tensor.output_dtype, tensor.shape) for tensor in self.tensors)

    @property
    def has_running_statistics(self) -> bool:
        """Whether the model keeps BatchNorm statistics, which an average makes stale."""
        return any(t.name.rpartition(".")[2] in RUNNING_STATISTICS for t in self.tensors)


def plan_average(
    checkpoints: Sequence[Checkpoint],
    weighting: Weighting,
    *,
    dtype: str | None = None,
    rules: TensorRules | None = None,
) -> AveragePlan:
    """Check that checkpoints belong together and decide what becomes of every tensor.

    Args:
        checkpoints: The open sources, in order.
        weighting: How much each counts.
        dtype: dtype of the averaged tensors in the output (`F32`, `BF16`, …); by default the
            sources' own, which must then agree.
        rules: Which tensors to leave out or take from the last source.

    Raises:
        CheckpointError: There are none, or names, shapes, dtypes or ties differ; the message
            names the files and the tensor.
        SwaToolsError: A pattern of the rules matches no tensor.
    """
    if not checkpoints:
        raise CheckpointError("nothing to average: no checkpoint was given")
    allowed = [name for name, info in DTYPES.items() if info.averaged and name != "C64"]
    if dtype is not None and dtype not in allowed:
        raise CheckpointError(f"--dtype {dtype}: expected one of {', '.join(allowed)}")
    first = checkpoints[0]
    if not first.tensors:
        raise CheckpointError(f"{first.path}: there are no tensors in it")
    rules = rules or TensorRules()
    rules.check({name for checkpoint in checkpoints for name in checkpoint.tensors})
    names = rules.kept(first.tensors)
    if not names:
        raise CheckpointError(f"{first.path}: no tensor is left of it by --only and --exclude")
    for other in checkpoints[1:]:
        check_names(
            dict.fromkeys(rules.kept(other.tensors)).keys(),
            dict.fromkeys(names).keys(),
            where=str(other.path),
            first=str(first.path),
        )
        if other.ties != first.ties:
            raise CheckpointError(
                f"{other.path}: other tensors are tied than in {first.path}:"
                f" {other.ties} and {first.ties}"
            )
    return AveragePlan(
        checkpoints=tuple(checkpoints),
        weighting=weighting.name,
        coefficients=weighting.coefficients(len(checkpoints)),
        tensors=tuple(_plan_tensor(name, checkpoints, dtype, rules) for name in names),
        ties={name: target for name, target in first.ties.items() if target in names},
        rules=rules,
    )


def _plan_tensor(
    name: str, checkpoints: Sequence[Checkpoint], dtype: str | None, rules: TensorRules
) -> TensorPlan:
    first = checkpoints[0].tensors[name]
    dtypes = [first.dtype]
    for other in checkpoints[1:]:
        found = other.tensors[name]
        if found.shape != first.shape:
            raise _differs(name, "shape", checkpoints[0], other)
        if found.dtype != first.dtype and not (dtype and _both_averaged(first, found)):
            error = _differs(name, "dtype", checkpoints[0], other)
            raise CheckpointError(f"{error}; give --dtype to say what to write")
        dtypes.append(found.dtype)
    action = action_of(name, first.dtype, rules)
    is_converted = action == "average" and first.dtype != "C64"
    output_dtype = dtype if dtype and is_converted else first.dtype
    return TensorPlan(name, tuple(dtypes), first.shape, output_dtype, action)


def _both_averaged(one: TensorInfo, other: TensorInfo) -> bool:
    return (
        DTYPES[one.dtype].averaged
        and DTYPES[other.dtype].averaged
        and (one.dtype == "C64") == (other.dtype == "C64")
    )


def _differs(name: str, what: str, one: Checkpoint, other: Checkpoint) -> CheckpointError:
    expected, found = getattr(one.tensors[name], what), getattr(other.tensors[name], what)
    where, first = str(other.path), str(one.path)
    return differs(name, what, found, expected=expected, where=where, first=first)
