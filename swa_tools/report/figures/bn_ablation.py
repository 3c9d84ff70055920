"""Top-1 over the number of images that BatchNorm statistics were measured on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from swa_tools.report.picture import Picture
from swa_tools.report.style import RUN_LINES, Theme, figure_legend, series_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bn_ablation_picture(
    curves: Mapping[str, Sequence[tuple[float, ...]]], baselines: Mapping[str, float]
) -> Picture:
    """Return top-1 over the images that BatchNorm statistics were measured on.

    Args:
        curves: Points (images, top-1 in percent) by estimator.
        baselines: Top-1 without a recompute in percent, by name, such as `stale`.
    """

    def draw(figure: "Figure", theme: Theme) -> None:
        from matplotlib.ticker import NullLocator

        axes = figure.add_subplot()
        for number, (name, points) in enumerate(curves.items()):
            x, y = np.array(sorted(points)).T
            axes.plot(
                x,
                y,
                **series_style(number, theme),
                # Hollow and one around the other, so that estimators that agree all show.
                markersize=5 + 4.5 * number,
                markerfacecolor="none",
                markeredgewidth=1.3,
                label=name,
            )
        for number, (name, top1) in enumerate(baselines.items()):
            dashes = RUN_LINES[1 + number % (len(RUN_LINES) - 1)]
            axes.axhline(top1, color=theme.muted, linestyle=dashes, linewidth=1.1, label=name)
        ticks = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("images for the BatchNorm statistics")
        axes.set_ylabel("top-1 accuracy, %")
        figure_legend(figure, axes)

    return Picture(
        title="BatchNorm recompute",
        message=_message(curves, baselines),
        size=(6.0, 3.4),
        narrow_size=(4.0, 3.4),
        draw=draw,
    )


def _message(
    curves: Mapping[str, Sequence[tuple[float, ...]]], baselines: Mapping[str, float]
) -> str:
    known = [f"{name} {top1:.2f} %" for name, top1 in baselines.items()]
    ends = [f"{name} {max(points)[1]:.2f} %" for name, points in curves.items()]
    return (
        "Top-1 over the number of images that BatchNorm statistics were measured on. With the most"
        f" images: {', '.join(ends)}. Without a recompute: {', '.join(known) or 'unknown'}."
    )
