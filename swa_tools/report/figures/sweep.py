"""Top-1 of averages over the number of captures in them, as scored by a sweep (Figure 6)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from swa_tools.report.picture import Picture
from swa_tools.report.style import Theme, figure_legend, series_style
from swa_tools.statistics import wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Window = Sequence[tuple[int, float, int]]
"""Points of a sweep: number of captures in the average, its top-1 in percent, images scored."""


def sweep_picture(windows: Mapping[str, Window]) -> Picture:
    """Return top-1 over the number of captures in an average, with 95 % bands (Figure 6).

    Args:
        windows: Curves by name, such as `first n` and `last n`.
    """

    def draw(figure: "Figure", theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        for number, (name, window) in enumerate(windows.items()):
            n, top1, n_samples = np.array(sorted(window)).T
            bands = np.array(
                [wilson_interval(a / 100 * m, int(m)) for a, m in zip(top1, n_samples, strict=True)]
            )
            style = series_style(number, theme)
            axes.plot(n, top1, **style, markersize=5, label=name, zorder=3)
            axes.fill_between(n, bands[:, 0], bands[:, 1], color=style["color"], alpha=0.06)
            for bound in bands.T:
                axes.plot(n, bound, **style | {"marker": ""}, linewidth=0.7, alpha=0.8)
        axes.set_xlabel("captures in the average")
        axes.set_ylabel("top-1 accuracy, % (95 % band)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure_legend(figure, axes)

    best = {name: max(window, key=lambda point: point[1]) for name, window in windows.items()}
    parts = [
        f"for the {name} it is highest at n = {p[0]}, {p[1]:.2f} %" for name, p in best.items()
    ]
    return Picture(
        title="Top-1 of averages of n captures",
        message="Top-1 of averages over the number of captures in them, with 95 % bands:"
        f" {', '.join(parts)}.",
        size=(6.0, 3.4),
        narrow_size=(4.0, 3.2),
        draw=draw,
    )
