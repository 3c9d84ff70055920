"""Levels of a contour plot: which values, and where to write them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.contour import ContourSet
    from matplotlib.path import Path

N_LEVELS = 8
LOWEST, HIGHEST, LOWEST_CELLS = 0.02, 0.97, 2
"""Levels lie between these quantiles of the grid, and at least this many points lie below them."""

FRAME_POINTS, MARKER_POINTS, LABEL_POINTS = 17.0, 19.0, 44.0
"""How far the middle of a level's label stays from the frame, from markers and from other labels,
in points."""


def contour_levels(values: np.ndarray, *, unit: float = 0.0) -> np.ndarray:
    """Return round levels that crowd around the lowest value, such as 35.4, 35.6, 36, 37, 40.

    The steps between them grow like 1, 2, 5, 10, …, so that a bowl's rings lie at nearly even
    ratios; if the values span few steps, each is taken several times.

    Args:
        values: The surface, in any shape; values that are not finite are left out.
        unit: The smallest step that means anything, such as the error of one image.

    Returns:
        At least two levels above the lowest value, ascending; none if no value is finite.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return np.empty(0)
    lowest = max(LOWEST, min(0.5, LOWEST_CELLS / known.size))
    low, first, high = (float(q) for q in np.quantile(known, (0, lowest, HIGHEST)))
    size = max(abs(low), 1)
    is_flat = high - low <= 1e-9 * size
    span = high - low
    least = 0.01 * size if is_flat else min(max(first - low, span / 1000), span / 4)
    number = _round_number(max(unit, least))
    while True:
        for repeats in (N_LEVELS, 3, 2, 1):
            levels = _spread(max(first, low + _step(number) / 2), high, number, repeats=repeats)
            if len(levels) <= N_LEVELS:
                return np.array(levels)
        number += 1


def _round_number(at_least: float) -> int:
    """Return the index in 1, 2, 5, 10, 20, … of the first step that is large enough."""
    number = 3 * math.floor(math.log10(at_least))
    while _step(number) < at_least * (1 - 1e-9):
        number += 1
    return number


def _step(number: int) -> float:
    return float(f"{(1, 2, 5)[number % 3]}e{number // 3}")


def _spread(first: float, high: float, number: int, *, repeats: int) -> list[float]:
    """Return levels from `first` to `high`, each a multiple of its step; at most one too many."""
    levels = [_multiple(first, number)]
    taken, gap = 1, 0.0
    while len(levels) <= N_LEVELS:
        current = number + taken // repeats
        level = _multiple(levels[-1] + max(0.6 * _step(current), gap), current)
        if level > high and len(levels) >= 2:
            break
        gap = level - levels[-1]
        levels.append(level)
        taken += 1
    return levels


def _multiple(at_least: float, number: int) -> float:
    """Return the first multiple of a step that is large enough."""
    step = _step(number)
    return round(math.ceil(at_least / step - 1e-6) * step, -(number // 3))


def digits_of(levels: np.ndarray) -> int:
    """Return how many decimals it takes to write the levels as they are."""
    room = 1e-3 * float(np.min(np.diff(levels)))
    exact = (d for d in range(9) if np.all(np.abs(levels - np.round(levels, d)) < room))
    return next(exact, 9)


def label_levels(
    lines: "ContourSet", filled: "ContourSet", *, obstacles: Sequence[tuple[float, float, float]]
) -> None:
    """Write levels on their lines where there is room, light on dark and dark on light.

    Args:
        lines: The contour lines, on axes whose place on the figure is known.
        filled: The areas between them.
        obstacles: What to stay clear of: x and y in data coordinates, and an offset from there to
            the upper right, in points.
    """
    axes = lines.axes
    point = filled.axes.figure.dpi / 72
    frame = np.array(axes.get_window_extent().extents) / point
    taken = np.array([axes.transData.transform((x, y)) / point + off for x, y, off in obstacles])
    labels: list[np.ndarray] = []
    labelled: list[np.ndarray] = []
    digits = digits_of(np.asarray(filled.levels)[1:-1])
    for level, path in zip(np.array(lines.levels), lines.get_paths(), strict=True):
        places = _points_along(path.transformed(axes.transData), scale=1 / point)
        place = _roomiest(places, frame=frame, obstacles=taken, labels=np.array(labels))
        if place is not None:
            labels.append(place)
            labelled.append(level)
    # All at once: matplotlib 3.9 finds the wrong level if only some are to be labelled.
    if not labelled:
        return
    places = axes.transData.inverted().transform(np.array(labels) * point)
    manual = [(float(x), float(y)) for x, y in places]
    lines.clabel(fmt=f"%.{digits}f", fontsize=7, manual=manual)
    for level, text in zip(labelled, lines.labelTexts, strict=True):
        red, green, blue, _ = filled.cmap(filled.norm(level))
        is_light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.45
        text.set_color("#1b1f24" if is_light else "#ffffff")


def _points_along(path: "Path", *, scale: float) -> np.ndarray:
    """Return points along the lines of a path that are long enough for a label, (N, 2)."""
    found = [np.empty((0, 2))]
    for line in path.to_polygons(closed_only=False):
        line = np.asarray(line) * scale
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        if along[-1] > 1.5 * LABEL_POINTS:
            at = np.arange(LABEL_POINTS / 2, along[-1] - LABEL_POINTS / 2, 4)
            found.append(np.stack([np.interp(at, along, line[:, i]) for i in (0, 1)], axis=1))
    return np.concatenate(found)


def _roomiest(
    places: np.ndarray, *, frame: np.ndarray, obstacles: np.ndarray, labels: np.ndarray
) -> np.ndarray | None:
    """Return the place with the most room relative to its need; None if none has enough."""
    if not len(places):
        return None
    room = [np.minimum(places - frame[:2], frame[2:] - places).min(axis=1) / FRAME_POINTS]
    for points, needed in ((obstacles, MARKER_POINTS), (labels, LABEL_POINTS)):
        if len(points):
            apart = np.linalg.norm(places[:, None] - points[None], axis=-1)
            room.append(apart.min(axis=1) / needed)
    least = np.minimum(np.min(room, axis=0), 2.0)
    best: np.ndarray = places[int(np.argmax(least))]
    return best if least.max() >= 1 else None
