"""Error and loss along random rays from checkpoints (Figure 4)."""

import itertools
from typing import TYPE_CHECKING, Any

from swa_tools.measurements import Numbers
from swa_tools.report.figures.surface_labels import (
    PANELS,
    bare_name,
    series_colors,
    stale_sentence,
    title_of,
    warn_if_stale,
)
from swa_tools.report.picture import Picture
from swa_tools.report.style import RUN_LINES, Theme, figure_legend, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def ray_picture(numbers: Numbers) -> Picture:
    """Return the picture of rays: each ray thin, the mean over the rays thick."""
    checkpoints = numbers.description["checkpoints"]

    def draw(figure: "Figure", theme: Theme) -> None:
        both = panels(figure, 2)
        colors = series_colors(checkpoints, theme)
        for axes, (name, label) in zip(both, PANELS, strict=True):
            for number, one in enumerate(checkpoints):
                style = {"color": colors[number], "linestyle": RUN_LINES[number % len(RUN_LINES)]}
                _draw_rays(axes, numbers, name, number, style, label=bare_name(one["name"]))
            axes.set_xlabel("distance from the checkpoint")
            axes.set_ylabel(label)
            axes.set_xlim(left=0)
        figure_legend(figure, both[0])
        warn_if_stale(figure, numbers)

    return Picture(
        title=title_of("Random rays", numbers),
        message=_ray_message(numbers) + stale_sentence(numbers),
        size=(7.4, 3.4),
        narrow_size=(4.0, 6.0),
        draw=draw,
    )


def _draw_rays(
    axes: "Axes", numbers: Numbers, name: str, number: int, style: dict[str, Any], *, label: str
) -> None:
    t, values = numbers.arrays["t"], numbers.arrays[name][number]
    for ray in values:
        axes.plot(t, ray, color=style["color"], linewidth=0.6, alpha=0.35, zorder=2)
    axes.plot(t, values.mean(axis=0), **style, linewidth=2.2, label=label, zorder=3)


def _ray_message(numbers: Numbers) -> str:
    description = numbers.description
    checkpoints, n_rays = description["checkpoints"], description["n_rays"]
    text = f"Test error and train loss along {n_rays} random rays from each checkpoint."
    for one in checkpoints:
        found = [
            f"by {_points(growth)} at a distance of {width['mean']:.3g}"
            for growth, width in one["width"].items()
            if width["mean"] is not None
        ]
        if found:
            text += f" From {bare_name(one['name'])} the error has grown {' and '.join(found)}."
    pairs = zip(itertools.pairwise(checkpoints), description["wider_than_next"], strict=True)
    return text + "".join(
        _compared(first, second, growth, difference, n_rays=n_rays)
        for (first, second), differences in pairs
        for growth, difference in differences.items()
    )


def _compared(
    first: dict[str, Any],
    second: dict[str, Any],
    growth: str,
    difference: dict[str, Any] | None,
    *,
    n_rays: int,
) -> str:
    """Say which of two checkpoints is wider, if the rays can tell."""
    names = [bare_name(one["name"]) for one in (first, second)]
    if difference is None:
        reached = [one["width"][growth]["n_reached"] for one in (first, second)]
        return (
            f" Which is wider at {_points(growth)} is unknown: the error grows so far on"
            f" {reached[0]} of {n_rays} rays from {names[0]} and on {reached[1]} from {names[1]}."
        )
    low, high = difference["interval"]
    if low <= 0 <= high:
        return (
            f" At {_points(growth)} {names[0]} and {names[1]} do not differ significantly: the 95 %"
            f" interval of the difference is {low:.3g} to {high:.3g}."
        )
    wider, other = names if low > 0 else names[::-1]
    low, high = sorted((abs(low), abs(high)))
    return (
        f" At {_points(growth)} {wider} is wider than {other} by {abs(difference['mean']):.3g}"
        f" (95 % interval {low:.3g} to {high:.3g})."
    )


def _points(growth: str) -> str:
    return f"{growth} point" if growth == "1" else f"{growth} points"
