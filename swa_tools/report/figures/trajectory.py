"""A run's path through weight space: does it explore, or is it still descending (section 3.6)."""

from typing import TYPE_CHECKING

import numpy as np

from swa_tools.measurements import Numbers
from swa_tools.report.measurement_tables import verdict
from swa_tools.report.picture import Picture
from swa_tools.report.style import Theme, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def trajectory_picture(numbers: Numbers) -> Picture:
    """Return the picture of a trajectory: squared distance by lag, and distances by capture."""

    def draw(figure: "Figure", theme: Theme) -> None:
        left, right = panels(figure, 2)
        _draw_lags(left, numbers.arrays, theme)
        _draw_distances(right, numbers.arrays, theme)

    return Picture(
        title="Path through weight space",
        message=_message(numbers),
        size=(7.4, 3.6),
        narrow_size=(4.0, 6.6),
        draw=draw,
    )


def _draw_lags(axes: "Axes", arrays: dict[str, np.ndarray], theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    measured = arrays["lag_profile"]
    n = len(measured) + 1
    k = np.arange(1, n)
    color = theme.others[0]
    axes.plot(k, measured, color=color, marker="o", linewidth=2, label="measured", zorder=3)
    # Each has a mean of 1 over all pairs, like the measured profile.
    for label, expected, dashes in (
        ("independent samples", np.ones(n - 1), (0, (5, 2))),
        ("random walk", 3 * k / (n + 1), (0, (6, 2, 1.5, 2))),
        ("straight line", 6 * k**2 / (n * (n + 1)), (0, (1.5, 1.5))),
    ):
        axes.plot(k, expected, color=theme.muted, linestyle=dashes, linewidth=1.2, label=label)
    axes.set_xlabel("captures apart")
    axes.set_ylabel("squared distance / mean of all pairs")
    axes.set_ylim(0, 1.15 * max(float(np.nanmax(measured)), 3 * (n - 1) / (n + 1), 1.0))
    axes.legend(loc="upper left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_distances(axes: "Axes", arrays: dict[str, np.ndarray], theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    captures = np.arange(1, len(arrays["norms"]) + 1)
    series = [
        ("to the start", captures, arrays["to_start"], theme.ink, "s", "-"),
        (
            "step to the next",
            captures[:-1] + 0.5,
            arrays["steps"],
            theme.others[1],
            "^",
            (0, (5, 2)),
        ),
        ("to the mean", captures, arrays["to_mean"], theme.others[0], "o", "-"),
    ]
    for label, x, y, color, marker, dashes in series:
        if len(y):
            axes.plot(x, y, color=color, marker=marker, linestyle=dashes, markersize=5, label=label)
    axes.set_xlabel("capture")
    axes.set_ylabel("distance")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.25)
    axes.legend(loc="best")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _message(numbers: Numbers) -> str:
    arrays, found = numbers.arrays, numbers.description["exploration"]["neighbour_distance"]
    ratio = "not a number" if found["measured"] is None else f"{found['measured']:.2f}"
    return (
        f"{verdict(found)} Path through {len(arrays['norms'])} captures: the squared distance"
        f" between neighbours is {ratio} times that of independent samples, where a random walk"
        f" would have {found['random_walk']:.2f} and straight motion {found['straight']:.2f};"
        f" on average, captures are {np.mean(arrays['to_mean']):.3g} from their mean."
    )
