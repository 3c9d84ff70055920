"""Error and loss along the segment between two checkpoints and beyond them (Figure 5)."""

from typing import TYPE_CHECKING

import numpy as np

from swa_tools.measurements import Numbers
from swa_tools.report.figures.surface_labels import (
    PANELS,
    bare_name,
    series_colors,
    series_kinds,
    stale_sentence,
    title_of,
    warn_if_stale,
)
from swa_tools.report.picture import Picture
from swa_tools.report.style import Theme, figure_legend, marker_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def segment_picture(numbers: Numbers) -> Picture:
    """Return the picture of a segment: test error above train loss, the two checkpoints marked."""

    def draw(figure: "Figure", theme: Theme) -> None:
        both = figure.subplots(2, 1, sharex=True)
        for axes, (name, label) in zip(both, PANELS, strict=True):
            _draw_segment(axes, numbers, name, theme)
            axes.set_ylabel(label)
        both[1].set_xlabel(f"signed distance from {_ends(numbers)[0]}")
        figure_legend(figure, both[0])
        warn_if_stale(figure, numbers)

    return Picture(
        title=title_of(f"Segment between {' and '.join(_ends(numbers))}", numbers),
        message=_segment_message(numbers) + stale_sentence(numbers),
        size=(6.4, 4.8),
        narrow_size=(4.0, 4.8),
        draw=draw,
    )


def _ends(numbers: Numbers) -> list[str]:
    """Return what to call the ends: their roles if one is an average, else their names."""
    checkpoints = numbers.description["checkpoints"]
    names = {"average": "the average", "control": "the conventional weights"}
    kinds = series_kinds(checkpoints)
    if None in kinds or "average" not in kinds:
        return [bare_name(one["name"]) for one in checkpoints]
    return [names[kind or ""] for kind in kinds]


def _draw_segment(axes: "Axes", numbers: Numbers, name: str, theme: Theme) -> None:
    position, values = numbers.arrays["position"], numbers.arrays[name]
    axes.plot(position, values, color=theme.ink, linewidth=1.3, marker=".", markersize=4)
    checkpoints = numbers.description["checkpoints"]
    kinds, colors = series_kinds(checkpoints), series_colors(checkpoints, theme)
    for number, one in enumerate(checkpoints):
        at = int(np.argmin(np.abs(numbers.arrays["t"] - number)))
        dashes = (0, (5, 2)) if number == 0 else (0, (1.5, 2))
        axes.axvline(position[at], color=colors[number], linestyle=dashes, linewidth=1, zorder=1)
        style = marker_style(kinds[number] or "checkpoint", theme) | {"linestyle": "none"}
        if kinds[number] is None:
            style |= {"markerfacecolor": colors[number]}
        axes.plot(position[at], values[at], **style, label=bare_name(one["name"]), zorder=4)
    which = "test_minimum" if name == "test_error" else "train_minimum"
    lowest = numbers.description["width"][which]
    value = values[int(np.argmin(np.abs(position - lowest)))]
    style = {"marker": "v", "markersize": 6, "color": theme.muted, "linestyle": "none"}
    axes.annotate(
        "",
        (lowest, value),
        xytext=(0, 16),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-|>", "color": theme.muted, "shrinkB": 5},
    )
    axes.plot([], [], **style, label="lowest point measured")
    axes.margins(y=0.12)


def _segment_message(numbers: Numbers) -> str:
    width, position = numbers.description["width"], numbers.arrays["position"]
    ends = _ends(numbers)
    at_end = [
        what
        for what, key in (("train loss", "train_minimum"), ("test error", "test_minimum"))
        if not position[0] < width[key] < position[-1]
    ]
    beyond = ""
    if at_end:
        beyond = (
            f" For {' and '.join(at_end)} that is the end of the measured range: the minimum may"
            " lie beyond."
        )
    return (
        f"Test error and train loss on the line through {ends[0]}, at 0, and {ends[1]}, at"
        f" {numbers.description['distance']:.3g}: train loss is lowest at"
        f" {width['train_minimum']:.3g}, test error at {width['test_minimum']:.3g}.{beyond}"
    )
