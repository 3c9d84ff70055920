"""Accuracy over the epochs: SWA and the rest of the conventional training, from one start."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.records import Record
from swa_tools.report.figures.run_curves import run_curves
from swa_tools.report.picture import Picture
from swa_tools.report.style import Theme, marker_style
from swa_tools.statistics import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = tuple[tuple[float, float], ...]

LINE = 0.052
"""Height of a line of text, as a share of the axes' height."""

LEAST_ERROR = 0.05
"""Smaller errors are drawn as this one, in percent: the axis is logarithmic in the errors."""

BEFORE = 1.5
"""How much of the time before SWA is shown, as a multiple of SWA's own time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoCurves:
    """Top-1 in percent over the epochs, counted from the very beginning.

    Attributes:
        start: Top-1 of the conventional training that both runs continue.
        control: Top-1 of the rest of that training; begins where `start` ends.
        captures: Top-1 of SWA's captures.
        averages: Top-1 of the captures' running average, with BatchNorm recomputed.
        n_samples: Number of images that all were scored on.
    """

    start: Points
    control: Points
    captures: Points
    averages: Points
    n_samples: int


def demo_curves(
    start: Iterable[Record],
    control: Iterable[Record],
    swa: Iterable[Record],
    *,
    start_epochs: float,
) -> DemoCurves:
    """Put the records of three runs on one axis.

    Args:
        start: Records of the run that was stopped early.
        control: Records of the run that finishes it.
        swa: Records of the run with the captures and their running average.
        start_epochs: Number of epochs before `control` and `swa` begin.
    """
    swa = tuple(swa)
    first, rest, cycles = (run_curves(records) for records in (start, control, swa))
    begin = first.top1[-1:]
    sizes = {record.n_samples for record in swa if record.n_samples is not None}
    return DemoCurves(
        start=first.top1,
        control=(*begin, *_shifted(tuple(p for p in rest.top1 if p[0] > 0), start_epochs)),
        captures=_shifted(cycles.captures, start_epochs),
        averages=_shifted(cycles.averages, start_epochs),
        n_samples=max(sizes, default=0),
    )


def _shifted(points: Points, epochs: float) -> Points:
    return tuple((epoch + epochs, value) for epoch, value in points)


def demo_picture(curves: DemoCurves) -> Picture:
    """Return the picture: two ways to continue from one start, and the average of SWA's captures.

    Bands are the 95 % intervals of the two results. The axis is logarithmic in the errors: half a
    point means more at 96 % than at 80 %, and both should be visible.
    """

    def draw(figure: "Figure", theme: Theme) -> None:
        axes = figure.add_subplot()
        _scale(axes, curves)
        _draw_bands(axes, curves, theme)
        _draw_curves(axes, curves, theme)
        _name_ends(axes, curves, theme)
        _name_inside(axes, curves, theme)
        axes.set_title("One start, the same number of epochs: conventional SGD or SWA")
        axes.set_xlabel(f"epochs of training (bands: 95 % intervals, {curves.n_samples:,} images)")
        axes.set_ylabel("validation accuracy (top-1), %")

    return Picture(
        title="SWA and conventional training from one start",
        message=_message(curves),
        size=(7.0, 4.2),
        draw=draw,
    )


def _message(curves: DemoCurves) -> str:
    parts = []
    if curves.captures:
        values = [value for _, value in curves.captures]
        parts.append(
            f"SWA's {len(values)} captures lie between {min(values):.2f} and {max(values):.2f} %"
        )
    if curves.averages:
        parts.append(f"their average is at {curves.averages[-1][1]:.2f} %")
    if curves.control:
        parts.append(
            "conventional training for the same number of epochs ends at"
            f" {curves.control[-1][1]:.2f} %"
        )
    text = "; ".join(parts)
    return f"Validation accuracy over the epochs: {text}. Bands: 95 % intervals (Wilson)."


def _draw_bands(axes: "Axes", curves: DemoCurves, theme: Theme) -> None:
    """Draw how far the two results may be off with this many images, from SWA's first epoch on."""
    for points, color in ((curves.control, theme.sgd), (curves.averages, theme.swa)):
        if points and curves.n_samples:
            low, high = _interval(points[-1][1], curves.n_samples)
            first = points[0][0]
            axes.fill_between(
                [first, points[-1][0]], low, high, color=color, alpha=0.13, linewidth=0, zorder=0
            )


def _interval(top1: float, n_samples: int) -> tuple[float, float]:
    return wilson_interval(top1 / 100 * n_samples, n_samples)


def _draw_curves(axes: "Axes", curves: DemoCurves, theme: Theme) -> None:
    if curves.start:
        axes.plot(*_columns(curves.start), color=theme.ink, linewidth=1.6, zorder=3)
        style = marker_style("start", theme) | {"linestyle": "none"}
        axes.plot(*curves.start[-1], **style, zorder=6)
        axes.axvline(curves.start[-1][0], color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)))
    if curves.captures:
        path = [*curves.start[-1:], *curves.captures]
        axes.plot(*_columns(path), color=theme.checkpoint, linewidth=0.8, zorder=2)
        style = marker_style("checkpoint", theme, hollow=True) | {"linestyle": "none"}
        axes.plot(*_columns(curves.captures), **style, zorder=4, clip_on=False)
    if curves.control:
        axes.plot(*_columns(curves.control), color=theme.sgd, linewidth=2, zorder=4)
        axes.plot(*curves.control[-1], **_end("control", theme), zorder=6)
    if curves.averages:
        axes.plot(*_columns(curves.averages), color=theme.swa, linewidth=2.4, zorder=5)
        axes.plot(*curves.averages[-1], **_end("average", theme), zorder=7)


def _end(kind: str, theme: Theme) -> dict[str, Any]:
    return marker_style(kind, theme) | {"linestyle": "none", "clip_on": False}


def _scale(axes: "Axes", curves: DemoCurves) -> None:
    """Show what happens around the captures: early training comes in from below."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

    later = [value for _, value in (*curves.captures, *curves.control, *curves.averages)] or [50.0]
    low, high = min(later), max(later)
    if curves.n_samples:
        high = max(_interval(value, curves.n_samples)[1] for value in later)
    axes.set_yscale("function", functions=(_stretched, lambda height: 100 - 10**-height))
    # Leave room below the lowest capture for the captures' name.
    axes.set_ylim(100 - 1.45 * (100 - low), min(high, 100 - LEAST_ERROR))
    ticks = (0, 50, *range(60, 90, 10), 85, 90, 92, 94, 95, 96, 97, 98, 99, 99.5)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    begin = curves.start[-1][0] if curves.start else 0.0
    end = max((epoch for epoch, _ in (*curves.captures, *curves.control)), default=begin + 1)
    axes.set_xlim(max(0.0, begin - BEFORE * (end - begin)), end)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _stretched(top1: "np.ndarray") -> "np.ndarray":
    errors = np.maximum(100 - np.asarray(top1, float), LEAST_ERROR)
    return np.asarray(-np.log10(errors))


def _name_ends(axes: "Axes", curves: DemoCurves, theme: Theme) -> None:
    """Write the two results next to the ends of their curves."""
    ends = [
        (points[-1][1], color, f"{name}\n{points[-1][1]:.1f} %")
        for points, color, name in (
            (curves.averages, theme.swa, f"average of the\n{len(curves.captures)} captures"),
            (curves.control, theme.sgd, "conventional\nSGD"),
        )
        if points
    ]
    low, high = _stretched(np.array(axes.get_ylim()))
    heights = [float((_stretched(np.array(value)) - low) / (high - low)) for value, *_ in ends]
    for (_, color, text), height in zip(ends, _apart(heights, n_lines=3), strict=True):
        place: dict[str, Any] = {"transform": axes.transAxes, "va": "center"}
        axes.text(1.025, height, text, color=color, fontweight="bold", **place)


def _apart(heights: Sequence[float], *, n_lines: int) -> list[float]:
    """Move names of `n_lines` lines down until none overlaps the one above; the top is at 1."""
    result, half, ceiling = [0.0] * len(heights), n_lines * LINE / 2, 1.0
    for number in sorted(range(len(heights)), key=lambda one: -heights[one]):
        result[number] = min(heights[number], ceiling - half)
        ceiling = result[number] - half - LINE / 2
    return result


def _name_inside(axes: "Axes", curves: DemoCurves, theme: Theme) -> None:
    """Write where there is no curve: above early training, and below the captures."""
    style: dict[str, Any] = {"transform": axes.transAxes, "fontweight": "bold"}
    if curves.start:
        text = f"conventional SGD,\nstopped at epoch {curves.start[-1][0]:g}"
        axes.text(0.02, 0.97, text, color=theme.ink, va="top", linespacing=1.3, **style)
    if curves.captures:
        share = 1 / (1 + BEFORE)
        axes.text(
            1 - share / 2, 0.03, "SWA's captures", color=theme.checkpoint, ha="center", **style
        )


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
