"""The rules of every average: what becomes of a tensor, and which tensors belong together.

The block kernel, the plans that it runs and the running mean all keep to these.
"""

import dataclasses
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from typing import Any, Literal

from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.errors import CheckpointError, SwaToolsError
from swa_tools.options import option

Action = Literal["average", "last", "equal"]
"""What becomes of a tensor. `average`: the mean of its numbers; `last`: taken from the last
checkpoint (`num_batches_tracked`); `equal`: must be the same in all (integers, booleans, packed
formats)."""

BATCH_COUNTER = "num_batches_tracked"
RUNNING_STATISTICS = ("running_mean", "running_var")


_PATTERN: dict[str, Any] = {"section": "How", "metavar": "PATTERN"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorRules:
    """Exceptions from the rules, by patterns of tensors' names (`*` for anything)."""

    only: tuple[str, ...] = option(
        (), help="Take only tensors of such names; may be repeated.", **_PATTERN
    )
    exclude: tuple[str, ...] = option((), help="Leave tensors of such names out.", **_PATTERN)
    from_last: tuple[str, ...] = option(
        (), help="Take tensors of such names from the last checkpoint.", **_PATTERN
    )

    def kept(self, names: Iterable[str]) -> list[str]:
        """Return the names of the tensors that the output has, in their order."""
        return [
            name
            for name in names
            if not _matches(name, self.exclude) and (not self.only or _matches(name, self.only))
        ]

    def check(self, names: Iterable[str]) -> None:
        """Refuse patterns that mean nothing.

        Args:
            names: Of all tensors, in whichever checkpoint.

        Raises:
            SwaToolsError: No name matches one of them.
        """
        names = list(names)
        for field in dataclasses.fields(self):
            for pattern in getattr(self, field.name):
                if not any(fnmatchcase(name, pattern) for name in names):
                    flag = field.name.replace("_", "-")
                    raise SwaToolsError(f"--{flag} {pattern}: no tensor has such a name")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def action_of(name: str, dtype: str, rules: TensorRules | None = None) -> Action:
    """Decide what becomes of a tensor.

    Args:
        name: Its name in the state dict.
        dtype: As safetensors names it.
        rules: Exceptions.
    """
    if rules is not None and _matches(name, rules.from_last):
        return "last"
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
    raise CheckpointError(
        f"{where}: not of the same model as {first}: {'; '.join(parts)} (what is not part of the"
        " model can be left out: --exclude)"
    )


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
        f"{where}: tensor {name!r} ({dtype}) cannot be averaged and differs from that in {first};"
        " --from-last takes the last checkpoint's, --exclude leaves it out"
    )
