"""Does a model's confidence equal its accuracy? The reliability diagram (Guo et al. 2017)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_tools.report.picture import Picture
from swa_tools.report.style import Theme, figure_legend, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_BINS = 15
"""Number of bins of confidence, the same as for the calibration error."""

Bins = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Mean confidence and accuracy in percent, and the share of the images, for each used bin."""


def reliability_picture(logits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Picture:
    """Return the reliability diagram of one or several models (Guo et al. 2017).

    It shows the accuracy within 15 bins of confidence, and below it the share of images in each.

    Args:
        logits: Logits (N, C) and labels (N,) by name.
    """
    bins = {name: confidence_bins(*values) for name, values in logits.items()}

    def draw(figure: "Figure", theme: Theme) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
        above.plot([0, 100], [0, 100], color=theme.muted, linewidth=1, linestyle=(0, (5, 2)))
        for number, (name, found) in enumerate(bins.items()):
            _draw_model((above, below), name, found, style=series_style(number, theme))
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
        message="Accuracy over confidence; on the diagonal the two are equal, and larger markers"
        " are bins with more images. Expected calibration error:"
        f" {'; '.join(parts)}.",
        size=(5.2, 4.6),
        narrow_size=(4.0, 4.4),
        draw=draw,
    )


def _draw_model(
    both: "tuple[Axes, Axes]", name: str, bins: Bins, *, style: Mapping[str, Any]
) -> None:
    above, below = both
    confidence, accuracy, share = bins
    above.plot(confidence, accuracy, **{**style, "marker": ""}, linewidth=0.8, alpha=0.6)
    # The area of a bin's marker is proportional to its images, but never too small to be seen.
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
    label = f"{name}, ECE {calibration_error(*bins):.2f} %"
    above.plot([], [], **style, markersize=5, label=label)
    below.plot(confidence, 100 * share, **style, markersize=4, clip_on=False, zorder=3)


def _sureness(confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray) -> str:
    excess = float(np.sum(share * (confidence - accuracy)))
    return (
        f"on average {abs(excess):.2f} points {'more' if excess > 0 else 'less'} confident than"
        " accurate"
    )


def confidence_bins(logits: np.ndarray, targets: np.ndarray) -> Bins:
    """Sort images into bins of confidence.

    Args:
        logits: The model's logits, (N, C).
        targets: The labels, (N,).
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
