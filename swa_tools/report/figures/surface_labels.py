"""How pictures of the loss surface name and colour checkpoints, and warn of stale BatchNorm."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swa_tools.measurements import Numbers
from swa_tools.report.style import Theme
from swa_tools.run_files import START

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (("test_error", "test error, %"), ("train_objective", "train loss with L2 term, nats"))

STALE = "BatchNorm not recomputed"


def mark_of(checkpoint: dict[str, Any]) -> str:
    """Return how a checkpoint is marked: `average`, `start` or `checkpoint`."""
    if checkpoint["name"] == START:
        return "start"
    return "average" if checkpoint["kind"] in ("average", "soup") else "checkpoint"


def bare_name(name: str) -> str:
    """Return a checkpoint's name without its suffix."""
    return name.removesuffix(".safetensors")


def title_of(title: str, numbers: Numbers) -> str:
    """Return a title, with a warning if BatchNorm statistics are stale."""
    return f"{title}, {STALE}" if numbers.has_stale_batchnorm else title


def stale_sentence(numbers: Numbers) -> str:
    """Return a sentence that says what is wrong if BatchNorm statistics are stale, else nothing."""
    if not numbers.has_stale_batchnorm:
        return ""
    return (
        f" {STALE}: the picture is wrong for this network, whose statistics fit only the weights"
        " that they were measured on."
    )


def warn_if_stale(figure: "Figure", numbers: Numbers) -> None:
    """Write a warning below a figure if BatchNorm statistics are stale."""
    if numbers.has_stale_batchnorm:
        text = f"{STALE}: wrong for this network"
        figure.supxlabel(text, fontsize=9, fontweight="bold", x=0.01, ha="left")


def series_kinds(checkpoints: Sequence[dict[str, Any]]) -> list[str | None]:
    """Return `average` for the first average, `control` for the first non-average, else None."""
    kinds: list[str | None] = [None] * len(checkpoints)
    is_average = [mark_of(one) == "average" for one in checkpoints]
    for kind, wanted in (("average", True), ("control", False)):
        if wanted in is_average:
            kinds[is_average.index(wanted)] = kind
    return kinds


def series_colors(checkpoints: Sequence[dict[str, Any]], theme: Theme) -> list[str]:
    """Return a colour for each: the average's, conventional training's, and others for the rest."""
    others = itertools.cycle(theme.others)
    return [theme.of_kind(kind) if kind else next(others) for kind in series_kinds(checkpoints)]
