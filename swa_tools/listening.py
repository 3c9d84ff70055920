"""Who hears how a piece of work goes: how far it is, and lines for the user."""

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

Advance = Callable[[int], None]
"""Called with the amount that was done since its last call: images of this rank, or bytes."""


def unheard(_: object) -> None:
    """Be told what nobody hears."""


def _unwatched(_name: str, _total: int) -> AbstractContextManager[Advance]:
    return contextlib.nullcontext(unheard)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Functions that a piece of work calls; by default nobody hears it.

    Attributes:
        on_stage: Called with the name of a stage and the images that it puts through the network
            on this rank; gives a context, which gives a function to call with those done.
        on_notice: Called with a line for the user.
    """

    on_stage: Callable[[str, int], AbstractContextManager[Advance]] = _unwatched
    on_notice: Callable[[str], None] = unheard
