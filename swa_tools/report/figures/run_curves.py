"""Learning rate and accuracy along one run (Figure 2), with its captures and its average."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from swa_tools.records import Record
from swa_tools.report.picture import Picture
from swa_tools.report.runs import counts, kind_of, newest, score_name
from swa_tools.report.style import Theme, figure_legend, marker_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST_NAME = 20
"""Longer names are shortened in the legend; the caption gives them in full."""

JUMP = 0.5
"""A rise of the learning rate between two records by more than this share of its range is a jump.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """What the records of one run say, as points (epoch, value).

    Attributes:
        lr: Learning rate, in the order of the steps.
        cycle_ends: Epochs of the last record of each cycle except the last cycle.
        top1: Accuracy in percent of the weights under training, including the captures.
        captures: Accuracy of the captures.
        capture_lrs: Learning rate at the captures.
        start: Accuracy of the starting point; None if it was not measured.
        averages: Accuracy of averages whose epoch is known, as from a run with a running average.
        ema: Accuracy of the exponential moving average.
        average: Accuracy of the newest average without stale BatchNorm; None if there is none.
        average_name: The name of that average for readers.
        ensemble: Accuracy of the newest ensemble; None without one.
    """

    lr: tuple[tuple[float, float], ...]
    cycle_ends: tuple[float, ...]
    top1: tuple[tuple[float, float], ...]
    captures: tuple[tuple[float, float], ...]
    capture_lrs: tuple[tuple[float, float], ...]
    start: float | None
    averages: tuple[tuple[float, float], ...]
    ema: tuple[tuple[float, float], ...]
    average: float | None
    average_name: str
    ensemble: float | None


def run_curves(records: Iterable[Record]) -> RunCurves:
    """Sort the records of a run into curves; if one thing was scored twice, the later score counts.

    Args:
        records: Those in `metrics.jsonl`, then those in `results.jsonl`.
    """
    records = tuple(records)
    lr: dict[float, float] = {}
    cycles: dict[int, float] = {}
    scores: dict[str, dict[float, float]] = {}
    capture_lrs: dict[float, float] = {}
    start: float | None = None
    for record in records:
        if record.epoch is not None and record.lr is not None and record.kind in (None, *_TRAINED):
            lr[record.epoch] = record.lr
            if record.cycle is not None:
                cycles[record.cycle] = max(record.epoch, cycles.get(record.cycle, 0.0))
        if record.top1 is None or not counts(record):
            continue
        kind = kind_of(record) or "inside"
        start = record.top1 if kind == "start" else start
        epoch = 0.0 if kind == "start" else record.epoch
        if epoch is not None:
            scores.setdefault(kind, {})[epoch] = record.top1
            if kind == "checkpoint" and epoch in lr:
                capture_lrs[epoch] = lr[epoch]
    trained = {e: v for kind in ("inside", *_TRAINED) for e, v in scores.get(kind, {}).items()}
    averages = _points(scores.get("average", {}))
    average, ensemble = newest(records, "average"), newest(records, "ensemble")
    return RunCurves(
        lr=_points(lr),
        cycle_ends=tuple(sorted(cycles.values())[:-1]),
        top1=_points(trained),
        captures=_points(scores.get("checkpoint", {})),
        capture_lrs=_points(capture_lrs),
        start=start,
        averages=averages if len(averages) > 1 else (),
        ema=_points(scores.get("ema", {})),
        average=None if average is None else average.top1,
        average_name="average" if average is None else score_name(average, "average"),
        ensemble=None if ensemble is None else ensemble.top1,
    )


_TRAINED = ("start", "checkpoint")


def _points(values: dict[float, float]) -> tuple[tuple[float, float], ...]:
    return tuple(sorted(values.items()))


def run_picture(records: Iterable[Record]) -> Picture:
    """Return the picture of one run: learning rate above, validation accuracy below.

    Circles mark the captures, a square the start, a star the average.

    Args:
        records: Those in `metrics.jsonl`, then those in `results.jsonl`.
    """
    curves = run_curves(records)

    def draw(figure: "Figure", theme: Theme) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.9))
        _draw_lr(above, curves, theme)
        _draw_accuracy(below, curves, theme)
        figure_legend(figure, below)

    return Picture(
        title="Learning rate and accuracy",
        message=_message(curves),
        size=(6.4, 4.4),
        narrow_size=(4.0, 4.6),
        draw=draw,
    )


def _draw_lr(axes: "Axes", curves: RunCurves, theme: Theme) -> None:
    if curves.lr:
        axes.plot(
            *_columns(with_jumps(curves.lr, ends=curves.cycle_ends)), color=theme.ink, linewidth=1.2
        )
    if curves.capture_lrs:
        style = marker_style("checkpoint", theme, hollow=True) | {"linestyle": "none"}
        axes.plot(*_columns(curves.capture_lrs), **style, clip_on=False, zorder=3)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)


def with_jumps(
    points: Sequence[tuple[float, float]], *, ends: Collection[float] = ()
) -> list[tuple[float, float]]:
    """Draw the jumps between cycles as vertical lines, although records are some steps apart.

    The rate jumps if it is higher after a cycle's end than at that minimum; anywhere else, if it
    rises by more than `JUMP` of its range. The line through the first two records of the new cycle
    gives the rate at which it begins.
    """
    values = [value for _, value in points]
    low, high = min(values), max(values)
    result = [(0.0, _height_at(points, 0, 0.0))] if points[0][0] > 0 else []
    for i, (epoch, value) in enumerate(points):
        before = points[i - 1] if i else points[0]
        at_end = before[0] in ends and before[1] - low < (high - low) / 4
        if value > before[1] and (at_end or value - before[1] > JUMP * (high - low)):
            result.append((before[0], _height_at(points, i, before[0])))
        result.append((epoch, value))
    return result


def _height_at(points: Sequence[tuple[float, float]], i: int, epoch: float) -> float:
    """Extend the line from point i to the next one back to an epoch, if the rate falls there."""
    (first, value), (second, lower) = points[i], points[min(i + 1, len(points) - 1)]
    slope = (lower - value) / (second - first) if lower < value else 0.0
    return value - slope * (first - epoch)


def _draw_accuracy(axes: "Axes", curves: RunCurves, theme: Theme) -> None:
    end = max((epoch for epoch, _ in (*curves.lr, *curves.top1)), default=0.0)
    if curves.top1:
        axes.plot(*_columns(curves.top1), color=theme.checkpoint, linewidth=1.1, zorder=2)
    for kind, points in (("ema", curves.ema), ("average", curves.averages)):
        if points:
            label = "EMA" if kind == "ema" else "running average"
            axes.plot(*_columns(points), color=theme.of_kind(kind), zorder=2, label=label)
    if curves.captures:
        style = marker_style("checkpoint", theme, hollow=True) | {"linestyle": "none"}
        axes.plot(*_columns(curves.captures), **style, label="captures", zorder=4)
    if curves.start is not None:
        style = marker_style("start", theme) | {"linestyle": "none"}
        axes.plot(0, curves.start, **style, label=f"start, {curves.start:.2f} %", zorder=4)
    for kind, value in (("ensemble", curves.ensemble), ("average", curves.average)):
        if value is None:
            continue
        dashes = (0, (1.5, 2)) if kind == "ensemble" else (0, (5, 2))
        axes.axhline(value, color=theme.of_kind(kind), linestyle=dashes, linewidth=1, zorder=1)
        style = marker_style(kind, theme) | {"linestyle": "none"}
        name = elided(curves.average_name) if kind == "average" else kind
        axes.plot(end, value, **style, label=f"{name}, {value:.2f} %", clip_on=False, zorder=5)
    axes.set_xlabel("epoch")
    whole_epochs(axes, [epoch for epoch, _ in curves.captures] or [end])
    axes.set_ylabel("top-1 accuracy, %")
    axes.margins(x=0.03, y=0.1)


def whole_epochs(axes: "Axes", epochs: Iterable[float]) -> None:
    """Put the ticks at whole epochs if all given epochs are whole."""
    from matplotlib.ticker import MaxNLocator

    if all(epoch.is_integer() for epoch in epochs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def elided(name: str) -> str:
    """Return a name for a legend; a long one keeps its beginning and its end."""
    half = (LONGEST_NAME - 1) // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half - 1 :]}"


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _message(curves: RunCurves) -> str:
    parts = []
    if curves.captures:
        values = [value for _, value in curves.captures]
        where, value = "the only capture is", f"{values[0]:.2f} %"
        if len(values) > 1:
            where = f"the {len(values)} captures lies between"
            value = f"{min(values):.2f} and {max(values):.2f} %"
        parts.append(f"validation top-1 at {where} {value}")
    if curves.start is not None:
        parts.append(f"the start is at {curves.start:.2f} %")
    if curves.average is not None:
        parts.append(f"the {curves.average_name} is at {curves.average:.2f} %")
    if curves.ensemble is not None:
        parts.append(f"the ensemble is at {curves.ensemble:.2f} %")
    if not parts:
        return "The learning rate of the run; no accuracy was recorded."
    text = "; ".join(parts)
    return f"Learning rate (above) and accuracy (below) along the run: {text}."
