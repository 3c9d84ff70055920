"""Error and loss along rays (Figure 4) and along the segment between two checkpoints (Figure 5)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.numbers import Numbers
from swa_tools.report.picture import Picture
from swa_tools.report.plane_figure import kind_of, short_name
from swa_tools.report.style import RUN_LINES, Theme, figure_legend, marker_style, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (("test_error", "test error, %"), ("train_objective", "train loss with L2 term, nats"))


def ray_picture(numbers: Numbers) -> Picture:
    """Return the picture of rays: each ray thin, the mean over the rays thick."""
    checkpoints = numbers.description["checkpoints"]

    def draw(figure: "Figure", theme: Theme) -> None:
        both = panels(figure, 2)
        colors = _colors(checkpoints, theme)
        for axes, (name, label) in zip(both, PANELS, strict=True):
            for number, one in enumerate(checkpoints):
                style = {"color": colors[number], "linestyle": RUN_LINES[number % len(RUN_LINES)]}
                _draw_rays(axes, numbers, name, number, style, label=short_name(one["name"]))
            axes.set_xlabel("distance from the checkpoint")
            axes.set_ylabel(label)
            axes.set_xlim(left=0)
        figure_legend(figure, both[0])

    return Picture(
        title="Random rays",
        message=_ray_message(numbers),
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


def _colors(checkpoints: list[dict[str, Any]], theme: Theme) -> list[str]:
    """Return the average's colour for an average and conventional SGD's for one other."""
    kinds = [kind_of(one) for one in checkpoints]
    if kinds.count("average") > 1 or len(kinds) - kinds.count("average") > 1:
        return [theme.runs[i % len(theme.runs)] for i in range(len(kinds))]
    return [theme.swa if kind == "average" else theme.sgd for kind in kinds]


def _ray_message(numbers: Numbers) -> str:
    parts = []
    for number, one in enumerate(numbers.description["checkpoints"]):
        errors = numbers.arrays["test_error"][number]
        parts.append(
            f"{short_name(one['name'])} from {errors[:, 0].mean():.2f} to"
            f" {errors[:, -1].mean():.2f} %"
        )
    return (
        f"Test error along {numbers.description['n_rays']} random rays from each checkpoint, mean"
        f" over the rays, grows over a distance of {numbers.arrays['t'][-1]:.3g}:"
        f" {'; '.join(parts)}."
    )


def segment_picture(numbers: Numbers) -> Picture:
    """Return the picture of a segment: test error above train loss, the two checkpoints marked."""

    def draw(figure: "Figure", theme: Theme) -> None:
        both = figure.subplots(2, 1, sharex=True)
        for axes, (name, label) in zip(both, PANELS, strict=True):
            _draw_segment(axes, numbers, name, theme)
            axes.set_ylabel(label)
        both[1].set_xlabel("signed distance from the average")
        figure_legend(figure, both[0])

    return Picture(
        title="Segment between average and conventional training",
        message=_segment_message(numbers),
        size=(6.4, 4.8),
        narrow_size=(4.0, 4.8),
        draw=draw,
    )


def _draw_segment(axes: "Axes", numbers: Numbers, name: str, theme: Theme) -> None:
    position, values = numbers.arrays["position"], numbers.arrays[name]
    axes.plot(position, values, color=theme.ink, linewidth=1.3, marker=".", markersize=4)
    for kind, t, one in zip(
        ("average", "control"), (0.0, 1.0), numbers.description["checkpoints"], strict=True
    ):
        at = int(np.argmin(np.abs(numbers.arrays["t"] - t)))
        color = theme.of_kind(kind)
        dashes = (0, (5, 2)) if kind == "average" else (0, (1.5, 2))
        axes.axvline(position[at], color=color, linestyle=dashes, linewidth=1, zorder=1)
        style = marker_style(kind, theme) | {"linestyle": "none"}
        label = short_name(one["name"])
        axes.plot(position[at], values[at], **style, label=label, zorder=4)
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
    width = numbers.description["width"]
    return (
        "Test error and train loss on the line through the average, at 0, and the conventionally"
        f" trained weights, at {numbers.description['distance']:.3g}: train loss is lowest at"
        f" {width['train_minimum']:.3g}, test error at {width['test_minimum']:.3g}."
    )
