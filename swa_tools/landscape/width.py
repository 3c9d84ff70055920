"""How wide a minimum is, in numbers with intervals. No torch."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

GROWTHS = (1.0, 5.0)
"""A width is the distance at which the error has grown by this many percentage points."""

CONFIDENCE = 0.95
N_RESAMPLES = 1000
BLOCK = 200
"""How many resamples are drawn at a time."""


def crossing(distances: Array, values: Array, level: float) -> float:
    """Return where values first reach a level, interpolating linearly between them.

    Args:
        distances: Ascending from where the search starts, (N,).
        values: The values there, (N,); NaN counts as beyond any level.
        level: The level to reach.

    Returns:
        The distance; infinity if the level is not reached.
    """
    values = np.where(np.isnan(values), math.inf, values)
    for i in range(len(values)):
        if values[i] < level:
            continue
        if i == 0 or math.isinf(values[i]):
            return float(distances[i])
        share = (level - values[i - 1]) / (values[i] - values[i - 1])
        return float(distances[i - 1] + share * (distances[i] - distances[i - 1]))
    return math.inf


def mean_interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the mean of independent values and its 95 % interval (Student's t).

    It is None for fewer than two values, or if one is not finite.
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        return None
    mean = float(np.mean(found))
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    half = student_t(len(found) - 1) * error
    return mean, mean - half, mean + half


@functools.cache
def student_t(degrees: int) -> float:
    """Return the two-sided quantile of Student's distribution.

    The density is proportional to (1 + t²/ν)^(−(ν+1)/2). With t = √ν·tan θ it becomes cos^(ν−1) θ,
    smooth on a finite interval; its integral is inverted on a fine grid.
    """
    theta = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(theta) ** (degrees - 1)
    integral = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found = np.interp(CONFIDENCE, integral / integral[-1], theta)
    return float(math.sqrt(degrees) * math.tan(found))


def ray_widths(distances: Array, errors: Array) -> dict[str, dict[str, Any]]:
    """Return the distances at which the error has grown by 1 and 5 points.

    Args:
        distances: Distances from the checkpoint, from 0 on, (T,).
        errors: Test error in percent on each ray, (R, T).

    Returns:
        For each growth: the distance on every ray (None if the ray does not reach it), the mean
        distance, and its interval over the rays (both None unless there are two rays at least and
        all reach it).
    """
    widths = {}
    for growth in GROWTHS:
        found = [crossing(distances, ray, float(ray[0]) + growth) for ray in errors]
        interval = mean_interval(found)
        widths[f"{growth:g}"] = {
            "distances": [_finite(value) for value in found],
            "n_reached": sum(math.isfinite(value) for value in found),
            "mean": None if interval is None else interval[0],
            "interval": None if interval is None else list(interval[1:]),
        }
    return widths


def width_differences(
    first: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the mean difference between two checkpoints' widths on the same rays, with intervals.

    The directions are the same, so the difference is taken ray by ray.
    """
    result: dict[str, Any] = {}
    for growth, one in first.items():
        pairs = zip(one["distances"], second[growth]["distances"], strict=True)
        differences = [math.inf if a is None or b is None else a - b for a, b in pairs]
        interval = mean_interval(differences)
        result[growth] = (
            None if interval is None else {"mean": interval[0], "interval": list(interval[1:])}
        )
    return result


def segment_widths(
    positions: Array, *, objective: Array, is_correct: npt.NDArray[np.bool_], seed: int = 0
) -> dict[str, Any]:
    """Return where train loss and test error are lowest on a segment, and how they rise.

    Args:
        positions: Signed distances from the average, positive toward the conventionally trained
            weights, ascending, (T,).
        objective: Train loss with its L2 term, (T,).
        is_correct: For each point and validation image, whether it is labelled right, (T, N).
        seed: Seed of the resampled images behind the intervals.

    Returns:
        `train_minimum` and `test_minimum`: signed distances. `shift`: how far the test error's
        minimum lies from the train loss's, and `shift_interval`, its interval over the images.
        `sides`: for each growth, the distance from the average at which the error has grown by so
        much, `away` from the conventionally trained weights and `toward` them, and `asymmetry`, the
        difference between the two over their sum: positive if the error rises faster toward them.
    """
    errors = 100 * (1 - np.mean(is_correct, axis=1))
    train = float(positions[int(np.nanargmin(objective))])
    resampled = _resampled_errors(is_correct, seed=seed)
    tests = np.array([positions[lowest(row)] for row in resampled])
    sides = {f"{growth:g}": _sides(positions, errors, growth) for growth in GROWTHS}
    tail = 100 * (1 - CONFIDENCE) / 2
    test = float(positions[lowest(errors)])
    return {
        "train_minimum": train,
        "test_minimum": test,
        "shift": test - train,
        "shift_interval": [float(q) for q in np.percentile(tests - train, [tail, 100 - tail])],
        "sides": sides,
    }


def lowest(errors: Array) -> int:
    """Return the position of the lowest error; the middle one if several are equal.

    Errors are whole numbers of images, so ties are common.
    """
    (found,) = np.nonzero(errors <= np.nanmin(errors) + 1e-9)
    return int(found[len(found) // 2])


def _resampled_errors(is_correct: npt.NDArray[np.bool_], *, seed: int) -> Array:
    """Return the errors of all points on images resampled with replacement, (resamples, T)."""
    random = np.random.Generator(np.random.Philox(key=seed % 2**64))
    n = is_correct.shape[1]
    right = is_correct.T.astype(np.float64)
    rows = []
    for _ in range(N_RESAMPLES // BLOCK):
        counts = random.multinomial(n, np.full(n, 1 / n), size=BLOCK)
        rows.append(100 * (1 - counts @ right / n))
    return np.concatenate(rows)


def _sides(positions: Array, errors: Array, growth: float) -> dict[str, Any]:
    swa = int(np.argmin(np.abs(positions)))
    level = float(errors[swa]) + growth
    away = crossing(-positions[swa::-1], errors[swa::-1], level)
    toward = crossing(positions[swa:], errors[swa:], level)
    both = math.isfinite(away) and math.isfinite(toward)
    return {
        "away": _finite(away),
        "toward": _finite(toward),
        "asymmetry": (away - toward) / (away + toward) if both else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
