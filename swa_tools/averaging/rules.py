"""The rules of every average: what becomes of a tensor, and which tensors belong together.

The block kernel, the plans that it runs and the running mean all keep to these.
"""

from collections.abc import Set as AbstractSet
from typing import Literal

from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.errors import CheckpointError

Action = Literal["average", "last", "equal"]
"""What becomes of a tensor. `average`: the mean of its numbers; `last`: taken from the last
checkpoint (`num_batches_tracked`); `equal`: must be the same in all (integers, booleans, packed
formats)."""

BATCH_COUNTER = "num_batches_tracked"
RUNNING_STATISTICS = ("running_mean", "running_var")


def action_of(name: str, dtype: str) -> Action:
    """Decide what becomes of a tensor.

    Args:
        name: Its name in the state dict.
        dtype: As safetensors names it.
    """
    if DTYPES[dtype].averaged:
        return "average"
    return "last" if name.rpartition(".")[2] == BATCH_COUNTER else "equal"


def check_names(
    found: AbstractSet[str], expected: AbstractSet[str], *, where: str, first: str
) -> None:
    """Check that two checkpoints have the same tensors.

    Args:
        found: The names in one of them.
        expected: The names in the first.
        where: The name of the one, for the error.
        first: The name of the first.

    Raises:
        CheckpointError: They have not.
    """
    if found == expected:
        return
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    parts = []
    for names, what in ((missing, "it lacks"), (extra, "only it has")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            parts.append(f"{what} {names[0]!r}{more}")
    raise CheckpointError(f"{where}: not of the same model as {first}: {'; '.join(parts)}")


def differs(
    name: str, what: str, found: object, *, expected: object, where: str, first: str
) -> CheckpointError:
    """Return the error for a tensor whose shape or dtype is not that in the first checkpoint."""
    return CheckpointError(
        f"{where}: tensor {name!r} has {what} {found}, in {first} it has {expected}"
    )


def unequal(name: str, dtype: str, *, where: str, first: str) -> CheckpointError:
    """Return the error for a tensor that cannot be averaged and is not the same in all."""
    return CheckpointError(
        f"{where}: tensor {name!r} ({dtype}) cannot be averaged and differs from that in {first}"
    )
