"""Which checkpoints a command averages: each set of weights once, and what was changed is said."""

from collections.abc import Sequence
from pathlib import Path

from swa_tools.averaging import Choice, Selection, choose
from swa_tools.checkpoints import find_checkpoints
from swa_tools.cli.output import notice


def chosen_checkpoints(
    arguments: Sequence[str],
    selection: Selection,
    *,
    entry: str | None,
    keep_names: bool = False,
) -> Choice:
    """Find checkpoints and choose among them; name those that are left out.

    Args:
        arguments: What the user names; see `find_checkpoints`.
        selection: Which of them to take.
        entry: See `open_checkpoint`.
        keep_names: See `open_checkpoint`.

    Raises:
        SwaToolsError: As `find_checkpoints` and `choose`.
    """

    def left_out(path: Path, reason: str) -> None:
        notice(f"{path}: left out: {reason}")

    paths = find_checkpoints(arguments, on_left_out=left_out)
    choice = choose(paths, selection, entry=entry, keep_names=keep_names)
    for duplicate in choice.duplicates:
        notice(
            f"{duplicate.checkpoint.path}: has the same weights as {duplicate.original.path};"
            " counted once"
        )
    for note in choice.notes:
        notice(note)
    return choice
