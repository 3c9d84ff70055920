"""Test error over the epochs of several runs (Figure 6), and what their averages reach."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.picture import Picture
from swa_tools.report.run_figure import RunCurves, run_curves
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

    Stars are averages. Where a run kept a running average, its line is that, and the weights under
    training stand behind it in a thin one.

    Args:
        runs: The runs, with their records.
    """
    groups = replicates(runs)

    def draw(figure: "Figure", theme: Theme) -> None:
        axes = figure.add_subplot()
        highest = [_draw_group(axes, group, number, theme) for number, group in enumerate(groups)]
        known = [value for value in highest if value is not None]
        if known:
            _keep_in_view(axes, max(known))
        if any(run.last("average") is not None for run in runs):
            style: dict[str, Any] = {"marker": MARKERS["average"], "markersize": 9}
            axes.plot([], [], color=theme.ink, linestyle="none", **style, label="average")
        axes.set_xlabel("epoch")
        axes.set_ylabel("test error, %")
        axes.margins(x=0.05)
        figure_legend(figure, axes)

    return Picture(
        title="Test error of the runs",
        message=_message(groups),
        size=(6.6, 3.9),
        narrow_size=(4.0, 4.4),
        draw=draw,
    )


def _draw_group(axes: "Axes", group: list[RunData], number: int, theme: Theme) -> float | None:
    """Draw one kind of run; return the highest error of its main line."""
    color = theme.runs[number % len(theme.runs)]
    curves = [run_curves(run.records) for run in group]
    weights = _errors([_with_start(curve) for curve in curves])
    averages = _errors([dict(curve.averages) for curve in curves])
    main = averages or weights
    if averages and weights:
        axes.plot(weights.epochs, weights.mean, color=color, linewidth=0.8, alpha=0.45, zorder=2)
    if main:
        axes.plot(
            main.epochs,
            main.mean,
            color=color,
            linestyle=RUN_LINES[number % len(RUN_LINES)],
            marker=RUN_MARKERS[number % len(RUN_MARKERS)],
            markersize=4,
            linewidth=1.6,
            label=_label(group),
            zorder=3,
        )
        low, high = main.mean - main.deviation, main.mean + main.deviation
        axes.fill_between(main.epochs, low, high, color=color, alpha=0.16, linewidth=0)
    longest = weights or averages
    _draw_averages(axes, group, longest.epochs[-1] if longest else 0.0, color)
    return float(main.mean.max()) if main else None


@dataclasses.dataclass(frozen=True, slots=True)
class _Errors:
    """Test errors in percent at the epochs that all runs of a group have, and their spread."""

    epochs: list[float]
    mean: np.ndarray
    deviation: np.ndarray


def _errors(points: Sequence[Mapping[float, float]]) -> _Errors | None:
    """Return the errors of runs from their top-1 by epoch; None if they share no epoch."""
    epochs = sorted(set.intersection(*(set(one) for one in points)))
    if not epochs:
        return None
    errors = 100 - np.array([[one[epoch] for epoch in epochs] for one in points])
    several = len(points) > 1
    deviation = errors.std(axis=0, ddof=1) if several else np.zeros(len(epochs))
    return _Errors(epochs, errors.mean(axis=0), deviation)


def _with_start(curve: RunCurves) -> dict[float, float]:
    start = {} if curve.start is None else {0.0: curve.start}
    # A run with one capture may have been validated on its way.
    return start | dict(curve.captures if len(curve.captures) > 1 else curve.top1)


def _keep_in_view(axes: "Axes", highest: float) -> None:
    """Let thin lines leave the picture where they would flatten the others."""
    low, high = axes.get_ylim()
    if high - low > 2 * (highest - low) > 0:
        axes.set_ylim(low, low + 1.6 * (highest - low))


def _draw_averages(axes: "Axes", group: list[RunData], epoch: float, color: str) -> None:
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
