"""Contours of train loss and test error on the plane through three checkpoints (Figures 1, 3)."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.numbers import Numbers
from swa_tools.report.picture import Picture
from swa_tools.report.style import Theme, figure_legend, marker_style, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_LEVELS = 8
HIGHEST = 0.97
"""The highest level stands at this quantile of the grid."""

WIDTH, NARROW_WIDTH, PANEL_WIDTH, MAX_HEIGHT = 7.6, 4.0, 2.8, 12.0
"""Of the picture, on a wide and a narrow screen, and of the surface in one panel, in inches."""

START_NAME = "start.safetensors"


def plane_picture(numbers: Numbers) -> Picture:
    """Return the picture of a plane: train loss with its L2 term, and test error."""

    def draw(figure: "Figure", theme: Theme) -> None:
        left, right = panels(figure, 2, sharex=True, sharey=True)
        for axes, name, title in (
            (left, "train_objective", "Train loss with L2 term, nats"),
            (right, "test_error", "Test error, %"),
        ):
            _draw_surface(figure, axes, numbers.arrays, name, theme)
            _draw_checkpoints(axes, numbers, theme)
            axes.set_title(title)
            axes.label_outer()
            axes.set_xlabel("distance along u")
            axes.set_ylabel("distance along v")
        figure_legend(figure, left, entry_inches=2.4)

    return Picture(
        title="Plane through three checkpoints",
        message=_message(numbers),
        size=(WIDTH, _height(numbers.arrays, n_rows=1)),
        narrow_size=(NARROW_WIDTH, _height(numbers.arrays, n_rows=2)),
        draw=draw,
    )


def _height(arrays: dict[str, np.ndarray], *, n_rows: int) -> float:
    """Return the height in inches at which panels with equal axes fill the width."""
    x, y = arrays["x"], arrays["y"]
    ratio = float((y[-1] - y[0]) / (x[-1] - x[0]))
    return min(MAX_HEIGHT, n_rows * (PANEL_WIDTH * ratio + 0.75) + 0.2 + 0.3 * n_rows)


def contour_levels(values: np.ndarray) -> np.ndarray:
    """Return levels at 1, 2, 5, 10, 20, … units above the lowest value, rounded down.

    A bowl's rings so lie at nearly even ratios, and the surroundings of its minimum are seen, too.
    """
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(np.quantile(known, HIGHEST))
    span = max(high - low, 1e-6 * max(abs(low), 1))
    top = math.floor(math.log10(span))
    steps = [m * 10.0**e for e in range(top - N_LEVELS, top + 1) for m in (1, 2, 5)]
    chosen = [step for step in steps if step <= span][-N_LEVELS:]
    unit = chosen[0]
    base = math.floor(low / unit) * unit
    if base + unit <= low:  # rounding: low is a multiple of the unit, or next to one
        base += unit
    return base + np.array(chosen)


def _draw_surface(
    figure: "Figure", axes: "Axes", arrays: dict[str, np.ndarray], name: str, theme: Theme
) -> None:
    from matplotlib.colors import BoundaryNorm

    values = np.ma.masked_invalid(arrays[name])
    levels = contour_levels(arrays[name])
    room = 1e-6 * (levels[-1] - levels[0])
    edges = [values.min() - room, *levels, max(values.max(), levels[-1]) + room]
    filled = axes.contourf(
        arrays["x"],
        arrays["y"],
        values,
        levels=edges,
        cmap="cividis_r",
        norm=BoundaryNorm(edges, 256),
    )
    inside = levels[levels < values.max()]
    if len(inside):
        lines = axes.contour(
            arrays["x"], arrays["y"], values, levels=inside, colors="#1b1f24", linewidths=0.6
        )
        _label_levels(axes, lines, filled, digits=_digits(levels))
    axes.set_aspect("equal")
    axes.grid(visible=False)
    bar = figure.colorbar(filled, ax=axes, ticks=levels, shrink=0.85, pad=0.02, spacing="uniform")
    bar.ax.set_yticklabels([f"{level:.{_digits(levels)}f}" for level in levels])
    bar.ax.tick_params(length=0, labelsize=7.5, labelcolor=theme.ink)
    bar.outline.set_visible(False)


def _label_levels(axes: "Axes", lines: Any, filled: Any, *, digits: int) -> None:
    """Write every other level on its line, light on dark and dark on light."""
    for text in axes.clabel(lines, lines.levels[1::2], fmt=f"%.{digits}f", fontsize=7):
        red, green, blue, _ = filled.cmap(filled.norm(float(text.get_text())))
        is_light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.45
        text.set_color("#1b1f24" if is_light else "#ffffff")


def _digits(levels: np.ndarray) -> int:
    """Return the decimals that tell the two lowest levels apart."""
    step = float(np.min(np.diff(levels)))
    return min(6, max(0, -math.floor(math.log10(step) + 1e-9)))


def _draw_checkpoints(axes: "Axes", numbers: Numbers, theme: Theme) -> None:
    corners = numbers.arrays["checkpoint_xy"]
    projected = numbers.arrays["projected_xyd"]
    named = numbers.description
    for letter, (x, y), one in zip("ABC", corners, named["checkpoints"], strict=True):
        style = _mark(kind_of(one), theme)
        axes.plot(x, y, **style, zorder=5, label=f"{letter}: {short_name(one['name'])}")
        _annotate(axes, letter, x, y)
    for kind in ("checkpoint", "start", "average"):
        _draw_kind(axes, kind, projected, named["projected"], theme)


def _draw_kind(
    axes: "Axes", kind: str, projected: np.ndarray, named: list[dict[str, Any]], theme: Theme
) -> None:
    """Mark the projected checkpoints of a kind; how far they are off the plane is in the legend."""
    chosen = [point for point, one in zip(projected, named, strict=True) if kind_of(one) == kind]
    if not chosen:
        return
    x, y, distance = np.array(chosen).T
    off = f"{distance.min():.3g}" if len(chosen) == 1 else _span(distance)
    name = kind if len(chosen) == 1 else f"{len(chosen)} {kind}s"
    style = _mark(kind, theme) | {"linestyle": "none"}
    if kind == "checkpoint":
        style |= {"markersize": 4.5}
    axes.plot(x, y, **style, zorder=4, label=f"{name}, {off} off the plane")


def _span(distances: np.ndarray) -> str:
    return f"{distances.min():.3g} to {distances.max():.3g}"


def _mark(kind: str, theme: Theme) -> dict[str, Any]:
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


def kind_of(checkpoint: dict[str, Any]) -> str:
    """Return how a checkpoint is marked: `average`, `start` or `checkpoint`."""
    if checkpoint["name"] == START_NAME:
        return "start"
    return "average" if checkpoint["kind"] in ("average", "soup") else "checkpoint"


def short_name(name: str) -> str:
    """Return a checkpoint's name without its suffix."""
    return name.removesuffix(".safetensors")


def _message(numbers: Numbers) -> str:
    arrays = numbers.arrays
    names = [short_name(one["name"]) for one in numbers.description["checkpoints"]]
    errors = arrays["checkpoint_test_error"]
    text = (
        f"Contours of train loss and test error on the plane through {names[0]}, {names[1]} and"
        f" {names[2]}, whose test errors are {errors[0]:.2f}, {errors[1]:.2f} and"
        f" {errors[2]:.2f} %; the lowest test error on the grid is"
        f" {np.nanmin(arrays['test_error']):.2f} %"
    )
    row, column = np.unravel_index(np.nanargmin(arrays["test_error"]), arrays["test_error"].shape)
    return f"{text}, at ({arrays['x'][column]:.3g}, {arrays['y'][row]:.3g})."
