"""Test error over the epochs of several runs (Figure 6), and what their averages reach."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.picture import Picture
from swa_tools.report.run_figure import run_curves
from swa_tools.report.runs import RunData, replicates
from swa_tools.report.style import (
    MARKER_SIZES,
    MARKERS,
    RUN_LINES,
    RUN_MARKERS,
    Theme,
    figure_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def comparison_picture(runs: Sequence[RunData]) -> Picture:
    """Return the picture of several runs; of runs that differ in the seed alone, mean ± deviation.

    Lines are the weights under training, stars the averages; a thick line is a running average.

    Args:
        runs: The runs, with their records.
    """
    groups = replicates(runs)

    def draw(figure: "Figure", theme: Theme) -> None:
        axes = figure.add_subplot()
        for number, group in enumerate(groups):
            _draw_group(axes, group, number, theme)
        axes.set_xlabel("epoch")
        axes.set_ylabel("test error, %")
        axes.margins(x=0.05)
        figure_legend(figure, axes, entry_inches=2.0)

    return Picture(
        title="Test error of the runs",
        message=_message(groups),
        size=(6.6, 3.9),
        narrow_size=(4.0, 4.2),
        draw=draw,
    )


def _draw_group(axes: "Axes", group: list[RunData], number: int, theme: Theme) -> None:
    color = theme.runs[number % len(theme.runs)]
    style: dict[str, Any] = {
        "color": color,
        "linestyle": RUN_LINES[number % len(RUN_LINES)],
        "marker": RUN_MARKERS[number % len(RUN_MARKERS)],
        "markersize": 4,
    }
    curves = [run_curves(run.records) for run in group]
    points = [dict(curve.captures or curve.top1) for curve in curves]
    starts = [curve.start for curve in curves if curve.start is not None]
    if starts:
        points = [
            {0.0: curve.start or float(np.mean(starts)), **p}
            for curve, p in zip(curves, points, strict=True)
        ]
    epochs = sorted(set.intersection(*(set(p) for p in points)))
    label = _label(group)
    if epochs:
        errors = 100 - np.array([[p[epoch] for epoch in epochs] for p in points])
        mean = errors.mean(axis=0)
        axes.plot(epochs, mean, **style, linewidth=1.4, label=label, zorder=3)
        if len(group) > 1:
            deviation = errors.std(axis=0, ddof=1)
            low, high = mean - deviation, mean + deviation
            axes.fill_between(epochs, low, high, color=color, alpha=0.16, linewidth=0)
    if len(group) == 1 and curves[0].averages:
        x, y = np.array(curves[0].averages).T
        axes.plot(x, 100 - y, color=color, linewidth=2.4, zorder=4)
    _draw_averages(axes, group, epochs[-1] if epochs else 0.0, color, label)


def _draw_averages(
    axes: "Axes", group: list[RunData], epoch: float, color: str, label: str
) -> None:
    found = [score.record.top1 for run in group if (score := run.last("average")) is not None]
    errors = [100 - top1 for top1 in found if top1 is not None]
    if not errors:
        return
    axes.errorbar(
        [epoch],
        [np.mean(errors)],
        yerr=[np.std(errors, ddof=1)] if len(errors) > 1 else None,
        color=color,
        marker=MARKERS["average"],
        markersize=MARKER_SIZES["average"],
        capsize=3,
        linestyle="none",
        clip_on=False,
        label=f"average of {label}",
        zorder=5,
    )


def _label(group: list[RunData]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} ({len(group)} seeds)"


def _message(groups: list[list[RunData]]) -> str:
    parts = []
    for group in groups:
        for kind in ("average", "checkpoint"):
            scores = [run.last(kind) for run in group]
            found = [one.record.top1 for one in scores if one is not None]
            errors = [100 - top1 for top1 in found if top1 is not None]
            if errors:
                what = "the average" if kind == "average" else "the last checkpoint"
                parts.append(f"{what} of {_label(group)} {np.mean(errors):.2f} %")
                break
    ends = f" Test error at the end: {'; '.join(parts)}." if parts else ""
    return f"Test error over the epochs of {len(groups)} kinds of run.{ends}"
