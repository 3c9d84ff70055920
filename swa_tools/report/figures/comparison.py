"""Test error of several runs over their epochs (Figure 6), and what their averages reach."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.figures.run_curves import RunCurves, elided, run_curves, whole_epochs
from swa_tools.report.groups import replicates
from swa_tools.report.picture import Picture
from swa_tools.report.runs import RunData
from swa_tools.report.style import MARKERS, RUN_LINES, RUN_MARKERS, Theme, figure_legend
from swa_tools.report.tables import group_name, last_top1s

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STAR = 10.0

MOST_MARKERS = 20
"""A line with more markers than this is a blur."""

MOST_TOLD = 4
"""With more kinds of run, the sentence names only the lowest and the highest."""


def comparison_picture(runs: Sequence[RunData]) -> Picture:
    """Return the picture of several runs: mean ± deviation for those that differ only in the seed.

    Stars are averages, hollow if they are the end of a line. If a run kept a running average, its
    line shows that, and a thin line behind it shows the weights under training. A run that
    continues another begins at the epoch where that run ended.

    Args:
        runs: The runs, with their records.
    """
    groups = replicates(runs)

    def draw(figure: "Figure", theme: Theme) -> None:
        axes = figure.add_subplot()
        colors = group_colors(groups, theme)
        highest = [
            _draw_group(axes, group, number, color=colors[number], paper=theme.paper)
            for number, group in enumerate(groups)
        ]
        known = [value for value in highest if value is not None]
        if known:
            _keep_in_view(axes, max(known))
        if any(run.last("average") is not None for run in runs):
            style: dict[str, Any] = {"marker": MARKERS["average"], "markersize": 9}
            axes.plot([], [], color=theme.ink, linestyle="none", **style, label="average")
        axes.set_xlabel("epoch")
        axes.set_ylabel("test error, %")
        axes.margins(x=0.05)
        whole_epochs(axes, [run.n_epochs or 0.0 for run in runs])
        figure_legend(figure, axes)

    return Picture(
        title="Test error of the runs",
        message=_message(groups),
        size=(6.6, 3.9),
        narrow_size=(4.0, 4.4),
        draw=draw,
    )


def group_colors(groups: Sequence[Sequence[RunData]], theme: Theme) -> list[str]:
    """Return a colour for each group: SGD's for conventional training, SWA's for averages.

    Each of the two colours goes to the first group of its kind, in whatever order the kinds come.
    """
    others = itertools.cycle((*theme.others, theme.muted))
    taken, colors = set(), []
    for group in groups:
        color = None
        if any(run.n_captures == 1 for run in group):
            color = theme.sgd
        elif last_top1s(group, "average"):
            color = theme.swa
        colors.append(next(others) if color is None or color in taken else color)
        taken.add(color)
    return colors


def _draw_group(
    axes: "Axes", group: list[RunData], number: int, *, color: str, paper: str
) -> float | None:
    """Draw one kind of run; return the highest error of its main line."""
    curves = [run_curves(run.records) for run in group]
    shifts = [run.epochs_before or 0.0 for run in group]
    weights = _errors([_with_start(curve) for curve in curves], shifts)
    averages = _errors([dict(curve.averages) for curve in curves], shifts)
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
            markevery=-(-len(main.epochs) // MOST_MARKERS),
            linewidth=1.6,
            label=elided(group_name(group)),
            zorder=3,
        )
        low, high = main.mean - main.deviation, main.mean + main.deviation
        axes.fill_between(main.epochs, low, high, color=color, alpha=0.16, linewidth=0)
    longest = weights or averages
    end = longest.epochs[-1] if longest else max(shifts)
    _draw_average(axes, group, (end, averages), color=color, paper=paper)
    return float(main.mean.max()) if main else None


@dataclasses.dataclass(frozen=True, slots=True)
class _Errors:
    """Test errors in percent at the epochs that all runs of a group have, and their spread."""

    epochs: list[float]
    mean: np.ndarray
    deviation: np.ndarray


def _errors(top1s: Sequence[Mapping[float, float]], shifts: Sequence[float]) -> _Errors | None:
    """Return the errors of runs from their top-1 by epoch; None if they share no epoch.

    Args:
        top1s: Each run's top-1 by its own epochs.
        shifts: Epochs before each run.
    """
    points = [
        {shift + epoch: top1 for epoch, top1 in one.items()}
        for one, shift in zip(top1s, shifts, strict=True)
    ]
    epochs = sorted(set.intersection(*(set(one) for one in points)))
    if not epochs:
        return None
    errors = 100 - np.array([[one[epoch] for epoch in epochs] for one in points])
    several = len(points) > 1
    deviation = errors.std(axis=0, ddof=1) if several else np.zeros(len(epochs))
    return _Errors(epochs, errors.mean(axis=0), deviation)


def _with_start(curve: RunCurves) -> dict[float, float]:
    start = {} if curve.start is None else {0.0: curve.start}
    # A run with one capture may have been validated before its end.
    return start | dict(curve.captures if len(curve.captures) > 1 else curve.top1)


def _keep_in_view(axes: "Axes", highest: float) -> None:
    """Let thin lines leave the picture if they would flatten the others."""
    low, high = axes.get_ylim()
    if high - low > 2 * (highest - low) > 0:
        axes.set_ylim(low, low + 1.6 * (highest - low))


def _draw_average(
    axes: "Axes",
    group: list[RunData],
    line: tuple[float, _Errors | None],
    *,
    color: str,
    paper: str,
) -> None:
    """Draw what averages reached, at the epoch where the runs end; hollow if it ends a line."""
    errors = [100 - top1 for top1 in last_top1s(group, "average").values()]
    if not errors:
        return
    epoch, running = line
    mean = float(np.mean(errors))
    is_its_end = running is not None and abs(running.mean[-1] - mean) < 1e-9
    axes.errorbar(
        [epoch],
        [mean],
        yerr=[np.std(errors, ddof=1)] if len(errors) > 1 else None,
        color=color,
        marker=MARKERS["average"],
        markersize=STAR,
        markerfacecolor=paper if is_its_end else color,
        markeredgewidth=1.2 if is_its_end else 0.0,
        capsize=3,
        linestyle="none",
        clip_on=False,
        zorder=5,
    )


def _message(groups: list[list[RunData]]) -> str:
    parts = []
    for group in groups:
        average, checkpoint = last_top1s(group, "average"), last_top1s(group, "checkpoint")
        if average or checkpoint:
            what = "the average" if average else "the last capture"
            error = 100 - float(np.mean(list((average or checkpoint).values())))
            parts.append((error, f"{what} of {group_name(group)}, {error:.2f} %"))
    text = f"Test error over the epochs of {len(groups)} kinds of run."
    if len(parts) > MOST_TOLD:
        return f"{text} At the end, the lowest is {min(parts)[1]}; the highest is {max(parts)[1]}."
    return f"{text} At the end: {'; '.join(part for _, part in parts)}." if parts else text
