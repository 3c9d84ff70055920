"""Contours of train loss and test error on the plane through three checkpoints (Figures 1, 3)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.measurements import Numbers
from swa_tools.report.figures.contours import contour_levels, digits_of, label_levels
from swa_tools.report.figures.surface_labels import (
    bare_name,
    mark_of,
    stale_sentence,
    title_of,
    warn_if_stale,
)
from swa_tools.report.picture import Picture
from swa_tools.report.style import Theme, figure_legend, marker_style, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import ContourSet
    from matplotlib.figure import Figure

WIDTH, NARROW_WIDTH, PANEL_WIDTH, MIN_PANEL_HEIGHT, MAX_HEIGHT = 7.6, 4.0, 2.8, 1.6, 12.0
"""Sizes of the picture, on wide and narrow screens, and of one panel's surface, in inches."""


def plane_picture(numbers: Numbers) -> Picture:
    """Return the picture of a plane: train loss with its L2 term, and test error."""

    def draw(figure: "Figure", theme: Theme) -> None:
        left, right = panels(figure, 2, sharex=True, sharey=True)
        lines = []
        for axes, name, title in (
            (left, "train_objective", "Train loss with L2 term, nats"),
            (right, "test_error", "Test error, %"),
        ):
            lines.append(_draw_surface(figure, axes, numbers, name, theme))
            _draw_checkpoints(axes, numbers, theme)
            axes.set_title(title)
            axes.label_outer()
            axes.set_xlabel("distance along u")
            axes.set_ylabel("distance along v")
        figure_legend(figure, left, entry_inches=2.4)
        warn_if_stale(figure, numbers)
        if any(found is not None for found in lines):
            figure.draw_without_rendering()  # so that places are known
        for found in lines:
            if found is not None:
                label_levels(*found, obstacles=_obstacles(numbers.arrays))

    return Picture(
        title=title_of("Plane through three checkpoints", numbers),
        message=_message(numbers) + stale_sentence(numbers),
        size=(WIDTH, _height(numbers, n_rows=1)),
        narrow_size=(NARROW_WIDTH, _height(numbers, n_rows=2)),
        draw=draw,
    )


def _height(numbers: Numbers, *, n_rows: int) -> float:
    """Return the height in inches at which panels with equally scaled axes fill the width."""
    x, y = numbers.arrays["x"], numbers.arrays["y"]
    note = 0.25 if numbers.has_stale_batchnorm else 0.0
    panel = max(MIN_PANEL_HEIGHT, PANEL_WIDTH * float((y[-1] - y[0]) / (x[-1] - x[0])))
    return min(MAX_HEIGHT, n_rows * (panel + 0.75) + 0.2 + 0.3 * n_rows + note)


def _draw_surface(
    figure: "Figure", axes: "Axes", numbers: Numbers, name: str, theme: Theme
) -> "tuple[ContourSet, ContourSet] | None":
    """Draw a surface with its colour bar; return its lines and areas if there are lines."""
    from matplotlib.colors import BoundaryNorm

    x, y, values = (numbers.arrays[key] for key in ("x", "y", name))
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    unit = 100 / numbers.description["images"]["val"]["n_samples"] if name == "test_error" else 0.0
    levels = contour_levels(values, unit=unit)
    if not len(levels):
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=theme.muted)
        return None
    values = np.ma.masked_invalid(values)
    room = 1e-6 * (levels[-1] - levels[0])
    edges = [values.min() - room, *levels, max(values.max(), levels[-1]) + room]
    norm = BoundaryNorm(edges, 256)
    filled = axes.contourf(x, y, values, levels=edges, cmap="cividis_r", norm=norm)
    bar = figure.colorbar(filled, ax=axes, ticks=levels, shrink=0.85, pad=0.02, spacing="uniform")
    bar.ax.set_yticklabels([f"{level:.{digits_of(levels)}f}" for level in levels])
    bar.ax.tick_params(length=0, labelsize=7.5, labelcolor=theme.ink)
    bar.minorticks_off()
    bar.outline.set_visible(False)
    inside = levels[levels < values.max()]
    if not len(inside):
        return None
    lines = axes.contour(x, y, values, levels=inside, colors="#1b1f24", linewidths=0.6)
    return lines, filled


def _draw_checkpoints(axes: "Axes", numbers: Numbers, theme: Theme) -> None:
    corners = numbers.arrays["checkpoint_xy"]
    projected = numbers.arrays["projected_xyd"]
    named = numbers.description
    for letter, (x, y), one in zip("ABC", corners, named["checkpoints"], strict=True):
        style = _marker(mark_of(one), theme)
        axes.plot(x, y, **style, zorder=5, label=f"{letter}: {bare_name(one['name'])}")
        _annotate(axes, letter, x, y)
    for kind in ("checkpoint", "start", "average"):
        _draw_kind(axes, kind, projected, named["projected"], theme)


def _obstacles(arrays: dict[str, np.ndarray]) -> list[tuple[float, float, float]]:
    """Return where markers and the letters next to them are, so that labels stay clear of them."""
    corners = arrays["checkpoint_xy"].tolist()
    markers = [*corners, *arrays["projected_xyd"][:, :2].tolist()]
    return [*((x, y, 0.0) for x, y in markers), *((x, y, 9.0) for x, y in corners)]


def _draw_kind(
    axes: "Axes", kind: str, projected: np.ndarray, named: list[dict[str, Any]], theme: Theme
) -> None:
    """Mark the projected checkpoints of a kind; the legend says how far they are off the plane."""
    chosen = [point for point, one in zip(projected, named, strict=True) if mark_of(one) == kind]
    if not chosen:
        return
    x, y, distance = np.array(chosen).T
    off = f"{distance.min():.3g}"
    if len(chosen) > 1:
        off += f" to {distance.max():.3g}"
    name = kind if len(chosen) == 1 else f"{len(chosen)} {kind}s"
    style = _marker(kind, theme) | {"linestyle": "none"}
    if kind == "checkpoint":
        style |= {"markersize": 4.5}
    axes.plot(x, y, **style, zorder=4, label=f"{name}, {off} off the plane")


def _marker(kind: str, theme: Theme) -> dict[str, Any]:
    """Return a marker that stands out on any colour of the surface."""
    light = {"checkpoint": "#ffffff", "start": "#1b1f24", "average": "#0072b2"}
    style = marker_style(kind, theme)
    return style | {
        "markerfacecolor": light[kind],
        "markeredgecolor": "#ffffff" if kind != "checkpoint" else "#1b1f24",
        "linestyle": "none",
    }


def _annotate(axes: "Axes", text: str, x: float, y: float) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text,
        (x, y),
        xytext=(5, 5),
        textcoords="offset points",
        fontweight="bold",
        color="#1b1f24",
        path_effects=[withStroke(linewidth=2.2, foreground="#ffffff")],
        zorder=6,
    )


def _message(numbers: Numbers) -> str:
    arrays = numbers.arrays
    names = [bare_name(one["name"]) for one in numbers.description["checkpoints"]]
    errors = arrays["checkpoint_test_error"]
    scores = [
        f"{name} ({error:.2f} % test error)" if np.isfinite(error) else name
        for name, error in zip(names, errors, strict=True)
    ]
    text = (
        "Contours of train loss and test error on the plane through"
        f" {scores[0]}, {scores[1]} and {scores[2]}"
    )
    grid = np.where(np.isfinite(arrays["test_error"]), arrays["test_error"], np.nan)
    if np.isnan(grid).all():
        return f"{text}; the test error is not a number at any of the {grid.size} grid points."
    row, column = np.unravel_index(np.nanargmin(grid), grid.shape)
    lowest = np.array([arrays["x"][column], arrays["y"][row]])
    return (
        f"{text}; the lowest test error on the grid is {grid[row, column]:.2f} %, at"
        f" ({lowest[0]:.3g}, {lowest[1]:.3g}).{_where_average(numbers, grid, lowest)}"
    )


def _where_average(numbers: Numbers, grid: np.ndarray, lowest: np.ndarray) -> str:
    """Say how far the average lies from the lowest error, if there is one average."""
    arrays, description = numbers.arrays, numbers.description
    known = [*description["checkpoints"], *description["projected"]]
    places = [*arrays["checkpoint_xy"], *arrays["projected_xyd"][:, :2]]
    found = [xy for one, xy in zip(known, places, strict=True) if mark_of(one) == "average"]
    if len(found) != 1:
        return ""
    x, y = (float(number) for number in found[0])
    row, column = (int(np.argmin(np.abs(arrays[k] - at))) for k, at in (("y", y), ("x", x)))
    apart = float(np.hypot(*(found[0] - lowest)))
    text = f" The average lies at ({x:.3g}, {y:.3g}) on the plane, {apart:.3g} from that point"
    above = grid[row, column] - np.nanmin(grid)
    if np.isnan(above):
        return f"{text}."
    return f"{text}; the grid point nearest to the average is {above:.2f} points above the lowest."
