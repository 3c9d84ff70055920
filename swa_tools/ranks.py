"""How processes that share a piece of work agree on its outcome; no torch.

`distributed.Distributed` joins the processes that torchrun starts; one process alone is `ALONE`.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar

from swa_tools.errors import OtherRankError, SwaToolsError

T = TypeVar("T")


class Ranks(Protocol):
    """The processes that share a piece of work, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Number of this process among all, from 0."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    def gather(self, value: T) -> list[T]:
        """Return the picklable value of every rank, in order of rank. All ranks must call this."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Alone:
    rank: int = 0
    world_size: int = 1

    def gather(self, value: T) -> list[T]:
        return [value]


ALONE: Ranks = _Alone()
"""The only process."""


def together(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do a piece of work on every rank; if it fails on one, fail on all.

    Raises:
        SwaToolsError: On the first rank that failed: its own error.
        OtherRankError: On all other ranks, with the text of that error.
    """
    result: T | None = None
    error: SwaToolsError | None = None
    try:
        result = work()
    except SwaToolsError as caught:
        error = caught
    for rank, first in enumerate(ranks.gather(error)):
        if first is not None:
            raise first if rank == ranks.rank else OtherRankError(str(first))
    return result  # type: ignore[return-value]  # It is a T: nothing failed.


def gathered(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Do a piece of work on every rank; return each one's picklable result, in order of rank.

    Raises:
        SwaToolsError: As `together`.
    """
    return ranks.gather(together(ranks, work))


def on_first(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do a piece of work on rank 0 alone; return its picklable result on every rank.

    Raises:
        SwaToolsError: As `together`.
    """
    results = gathered(ranks, lambda: work() if ranks.rank == 0 else None)
    return results[0]  # type: ignore[return-value]  # It is a T: rank 0 did the work.
