"""How sure a top-1 is."""

import math

Z_95 = 1.959963984540054
"""Of the standard normal distribution 95 % lie within ± this."""


def top1_interval(top1: float, n_samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a top-1 in percent (Wilson 1927).

    Args:
        top1: Percent.
        n_samples: Images, at least 1.
    """
    fraction, z = top1 / 100, Z_95
    scale = 1 + z**2 / n_samples
    middle = (fraction + z**2 / (2 * n_samples)) / scale
    spread = fraction * (1 - fraction) / n_samples + z**2 / (4 * n_samples**2)
    half_width = z * math.sqrt(spread) / scale
    return 100 * max(0.0, middle - half_width), 100 * min(1.0, middle + half_width)
