"""Error and loss along rays (Figure 4) and along the segment between two checkpoints (Figure 5)."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.numbers import Numbers
from swa_tools.report.picture import Picture
from swa_tools.report.plane_figure import (
    kind_of,
    short_name,
    stale_sentence,
    title_of,
    warn_if_stale,
)
from swa_tools.report.style import (
    RUN_LINES,
    Theme,
    figure_legend,
    marker_style,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (("test_error", "test error, %"), ("train_objective", "train loss with L2 term, nats"))


def ray_picture(numbers: Numbers) -> Picture:
    """Return the picture of rays: each ray thin, the mean over the rays thick."""
    checkpoints = numbers.description["checkpoints"]

    def draw(figure: "Figure", theme: Theme) -> None:
        both = panels(figure, 2)
        colors = series_colors(checkpoints, theme)
        for axes, (name, label) in zip(both, PANELS, strict=True):
            for number, one in enumerate(checkpoints):
                style = {"color": colors[number], "linestyle": RUN_LINES[number % len(RUN_LINES)]}
                _draw_rays(axes, numbers, name, number, style, label=short_name(one["name"]))
            axes.set_xlabel("distance from the checkpoint")
            axes.set_ylabel(label)
            axes.set_xlim(left=0)
        figure_legend(figure, both[0])
        warn_if_stale(figure, numbers.description)

    return Picture(
        title=title_of("Random rays", numbers.description),
        message=_ray_message(numbers) + stale_sentence(numbers.description),
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


def series_kinds(checkpoints: Sequence[dict[str, Any]]) -> list[str | None]:
    """Return `average` for the first average, `control` for the first other, None for the rest."""
    kinds: list[str | None] = [None] * len(checkpoints)
    is_average = [kind_of(one) == "average" for one in checkpoints]
    for kind, wanted in (("average", True), ("control", False)):
        if wanted in is_average:
            kinds[is_average.index(wanted)] = kind
    return kinds


def series_colors(checkpoints: Sequence[dict[str, Any]], theme: Theme) -> list[str]:
    """Return the average's colour, conventional training's, and others for the rest."""
    others = itertools.cycle(theme.others)
    return [theme.of_kind(kind) if kind else next(others) for kind in series_kinds(checkpoints)]


def _ray_message(numbers: Numbers) -> str:
    description = numbers.description
    checkpoints, n_rays = description["checkpoints"], description["n_rays"]
    text = f"Test error and train loss along {n_rays} random rays from each checkpoint."
    for one in checkpoints:
        found = [
            f"by {_points(growth)} at {width['mean']:.3g}"
            for growth, width in one["width"].items()
            if width["mean"] is not None
        ]
        if found:
            text += f" From {short_name(one['name'])} the error has grown {' and '.join(found)}."
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
    """Say which of two checkpoints is wider, if the rays tell."""
    names = [short_name(one["name"]) for one in (first, second)]
    if difference is None:
        reached = [one["width"][growth]["n_reached"] for one in (first, second)]
        return (
            f" Which is wider at {_points(growth)} is not known: it is reached on {reached[0]} of"
            f" {n_rays} rays from {names[0]} and {reached[1]} from {names[1]}."
        )
    low, high = difference["interval"]
    if low <= 0 <= high:
        return (
            f" At {_points(growth)} {names[0]} and {names[1]} do not differ beyond the 95 %"
            f" interval of the difference, {low:.3g} to {high:.3g}."
        )
    wider, other = names if low > 0 else names[::-1]
    low, high = sorted((abs(low), abs(high)))
    return (
        f" At {_points(growth)} {wider} is wider than {other} by {abs(difference['mean']):.3g}"
        f" (95 % interval {low:.3g} to {high:.3g})."
    )


def _points(growth: str) -> str:
    return f"{growth} point" if growth == "1" else f"{growth} points"


def segment_picture(numbers: Numbers) -> Picture:
    """Return the picture of a segment: test error above train loss, the two checkpoints marked."""

    def draw(figure: "Figure", theme: Theme) -> None:
        both = figure.subplots(2, 1, sharex=True)
        for axes, (name, label) in zip(both, PANELS, strict=True):
            _draw_segment(axes, numbers, name, theme)
            axes.set_ylabel(label)
        both[1].set_xlabel(f"signed distance from {_ends(numbers)[0]}")
        figure_legend(figure, both[0])
        warn_if_stale(figure, numbers.description)

    return Picture(
        title=title_of(f"Segment between {' and '.join(_ends(numbers))}", numbers.description),
        message=_segment_message(numbers) + stale_sentence(numbers.description),
        size=(6.4, 4.8),
        narrow_size=(4.0, 4.8),
        draw=draw,
    )


def _ends(numbers: Numbers) -> list[str]:
    """Return what the ends are: by their roles if one is an average, else by their names."""
    checkpoints = numbers.description["checkpoints"]
    names = {"average": "the average", "control": "the conventional weights"}
    kinds = series_kinds(checkpoints)
    if None in kinds or "average" not in kinds:
        return [short_name(one["name"]) for one in checkpoints]
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
        axes.plot(position[at], values[at], **style, label=short_name(one["name"]), zorder=4)
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
            f" For {' and '.join(at_end)} that is the end of the measured range: it may be lower"
            " beyond."
        )
    return (
        f"Test error and train loss on the line through {ends[0]}, at 0, and {ends[1]}, at"
        f" {numbers.description['distance']:.3g}: train loss is lowest at"
        f" {width['train_minimum']:.3g}, test error at {width['test_minimum']:.3g}.{beyond}"
    )
