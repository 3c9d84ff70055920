"""How certain a top-1 is, and the difference between two."""

import math
from statistics import NormalDist


def wilson_interval(
    n_correct: float, n_samples: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of a fraction, in percent (Wilson 1927).

    A share `confidence` of such intervals contains the true accuracy on images drawn like these.
    The interval stays within [0, 100] and is right near its ends, where the usual ± is not.

    Args:
        n_correct: Number of images labelled right; not a whole number if it comes from a
            percentage.
        n_samples: Number of images, at least 1.
        confidence: The share, in (0, 1).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    fraction = n_correct / n_samples
    scale = 1 + z**2 / n_samples
    middle = (fraction + z**2 / (2 * n_samples)) / scale
    spread = fraction * (1 - fraction) / n_samples + z**2 / (4 * n_samples**2)
    half_width = z * math.sqrt(spread) / scale
    return 100 * max(0.0, middle - half_width), 100 * min(1.0, middle + half_width)


def mcnemar(n_only_first: int, n_only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test for two models on the same images.

    Images that both label right, or both wrong, do not tell which model is better. If the two are
    equally good, the number of the other n images that the first labels right is Binomial(n, 1/2);
    p is the chance of a split at least as uneven as this one.

    Args:
        n_only_first: Number of images that only the first model labels right.
        n_only_second: Number of images that only the second model labels right.
    """
    n, smaller = n_only_first + n_only_second, min(n_only_first, n_only_second)
    if 2 * smaller == n:
        return 1.0
    # The terms of the lower tail, from the largest down: each is k/(n−k+1) times the one before.
    term = math.exp(
        math.lgamma(n + 1)
        - math.lgamma(smaller + 1)
        - math.lgamma(n - smaller + 1)
        - n * math.log(2)
    )
    tail = 0.0
    for k in range(smaller, -1, -1):
        tail += term
        term *= k / (n - k + 1)
    return min(1.0, 2 * tail)
