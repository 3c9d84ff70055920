"""Pictures of scores: windows of averages, images for BatchNorm, calibration."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.intervals import top1_interval
from swa_tools.report.picture import Picture
from swa_tools.report.style import RUN_LINES, RUN_MARKERS, Theme, figure_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_BINS = 15
"""Of confidence, as in the calibration error."""

Window = Sequence[tuple[int, float, int]]
"""Points of a sweep: captures in the average, its top-1 in percent, images scored."""


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
                [top1_interval(a, int(m)) for a, m in zip(top1, n_samples, strict=True)]
            )
            style = _style(number, theme)
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
        f"of the {name} it is highest, {p[1]:.2f} %, at n = {p[0]}" for name, p in best.items()
    ]
    return Picture(
        title="Top-1 of averages of n captures",
        message="Top-1 of averages over the number of captures in them, with 95 % bands:"
        f" {'; '.join(parts)}.",
        size=(6.0, 3.4),
        narrow_size=(4.0, 3.2),
        draw=draw,
    )


def bn_ablation_picture(
    curves: Mapping[str, Sequence[tuple[float, float]]], baselines: Mapping[str, float]
) -> Picture:
    """Return top-1 over the images that BatchNorm statistics were measured on.

    Args:
        curves: Points (images, top-1 in percent) by estimator.
        baselines: Top-1 without a recompute, by name, such as `stale`.
    """

    def draw(figure: "Figure", theme: Theme) -> None:
        from matplotlib.ticker import NullLocator

        axes = figure.add_subplot()
        for number, (name, points) in enumerate(curves.items()):
            x, y = np.array(sorted(points)).T
            axes.plot(
                x,
                y,
                **_style(number, theme),
                # Hollow and one around the other: estimators that agree are all seen.
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

    known = [f"{name} {top1:.2f} %" for name, top1 in baselines.items()]
    ends = [f"{name} {max(points)[1]:.2f} %" for name, points in curves.items()]
    return Picture(
        title="BatchNorm recompute",
        message="Top-1 over the number of images that BatchNorm statistics were measured on: with"
        f" the most images {', '.join(ends)}; without a recompute {', '.join(known) or 'unknown'}.",
        size=(6.0, 3.4),
        narrow_size=(4.0, 3.4),
        draw=draw,
    )


def reliability_picture(logits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Picture:
    """Return the reliability diagram of one or several models (Guo et al. 2017).

    Accuracy within 15 bins of confidence, above the share of images in each.

    Args:
        logits: Logits (N, C) and labels (N,) by name.
    """
    bins = {name: confidence_bins(*values) for name, values in logits.items()}

    def draw(figure: "Figure", theme: Theme) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
        above.plot([0, 100], [0, 100], color=theme.muted, linewidth=1, linestyle=(0, (5, 2)))
        for number, (name, (confidence, accuracy, share)) in enumerate(bins.items()):
            style = _style(number, theme)
            label = f"{name}, ECE {calibration_error(confidence, accuracy, share):.2f} %"
            above.plot(confidence, accuracy, **style | {"marker": ""}, linewidth=0.8, alpha=0.6)
            # A bin's marker has an area in proportion to its images, down to what can be seen.
            above.scatter(
                confidence,
                accuracy,
                s=np.maximum(3, 90 * share / share.max()),
                color=style["color"],
                marker=style["marker"],
                linewidths=0,
                clip_on=False,
                zorder=3,
            )
            above.plot([], [], **style, markersize=5, label=label)
            below.plot(confidence, 100 * share, **style, markersize=4, clip_on=False, zorder=3)
        above.set_ylabel("accuracy, %")
        above.set_ylim(0, 100)
        below.set_ylabel("images, %")
        below.set_ylim(bottom=0)
        below.set_xlabel("confidence, %")
        below.set_xlim(0, 100)
        figure_legend(figure, above, entry_inches=2.4)

    parts = [
        f"{name} {calibration_error(*values):.2f} %, {_sureness(*values)}"
        for name, values in bins.items()
    ]
    return Picture(
        title="Reliability",
        message="Accuracy over confidence; on the diagonal a model is as sure as it is right,"
        f" larger markers are bins of more images. Expected calibration error: {'; '.join(parts)}.",
        size=(5.2, 4.6),
        narrow_size=(4.0, 4.4),
        draw=draw,
    )


def _style(number: int, theme: Theme) -> dict[str, Any]:
    """Return the look of a series that is neither the average nor conventional training as such."""
    return {
        "color": theme.others[number % len(theme.others)],
        "linestyle": RUN_LINES[number % len(RUN_LINES)],
        "marker": RUN_MARKERS[number % len(RUN_MARKERS)],
    }


def _sureness(confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray) -> str:
    excess = float(np.sum(share * (confidence - accuracy)))
    return (
        f"on the whole {abs(excess):.2f} points {'more' if excess > 0 else 'less'} sure than right"
    )


def confidence_bins(
    logits: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean confidence and accuracy in percent and the share of images, of each used bin.

    Args:
        logits: (N, C).
        targets: (N,).
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    confidence = 1 / np.exp(shifted).sum(axis=1)
    is_correct = logits.argmax(axis=1) == targets
    # The bins are (0, 1/15], (1/15, 2/15], …
    which = np.clip(np.ceil(confidence * N_BINS).astype(np.int64), 1, N_BINS) - 1
    counts = np.bincount(which, minlength=N_BINS)
    used = counts > 0
    sums = (np.bincount(which, values, N_BINS)[used] for values in (confidence, is_correct))
    mean_confidence, accuracy = (100 * total / counts[used] for total in sums)
    return mean_confidence, accuracy, counts[used] / len(targets)


def calibration_error(confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray) -> float:
    """Return the expected calibration error in percent, from `confidence_bins`."""
    return float(np.sum(share * np.abs(confidence - accuracy)))
