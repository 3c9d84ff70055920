"""Checkpoints that were named twice, or copied."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swa_tools.cli.output import notice

if TYPE_CHECKING:
    from swa_tools.checkpoints import Checkpoint


def without_duplicates(opened: "Sequence[Checkpoint]") -> "list[Checkpoint]":
    """Return the checkpoints without those that repeat an earlier one's weights; name these."""
    from swa_tools.averaging import find_duplicates

    duplicates = find_duplicates(opened)
    for duplicate in duplicates:
        notice(
            f"{duplicate.checkpoint.path}: has the same weights as {duplicate.original.path};"
            " counted once"
        )
    repeated = {id(duplicate.checkpoint) for duplicate in duplicates}
    return [checkpoint for checkpoint in opened if id(checkpoint) not in repeated]
