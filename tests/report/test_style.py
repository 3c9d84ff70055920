import itertools

import numpy as np
import pytest

from swa_tools.report.style import THEMES


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_run_colors_are_told_apart_and_can_be_read(theme):
    assert theme.swa not in theme.others
    assert theme.sgd not in theme.others
    assert {theme.swa, theme.sgd, *theme.others} == set(theme.runs)
    for color in theme.runs:
        low, high = sorted((luminance(color), luminance(theme.paper)))
        assert (high + 0.05) / (low + 0.05) > 4.5
    for sight in SIGHTS.values():
        seen = [oklab(np.array(sight) @ linear(color)) for color in theme.runs]
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(a - b) > 0.05


SIGHTS = {
    "usual": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""On linear RGB (Machado et al. 2009, severity 1)."""


def linear(color):
    return (np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255) ** 2.2


def luminance(color):
    return linear(color) @ [0.2126, 0.7152, 0.0722]


def oklab(rgb):
    cones = np.cbrt(
        np.array([[0.412, 0.536, 0.051], [0.212, 0.681, 0.107], [0.088, 0.282, 0.630]])
        @ np.clip(rgb, 0, 1)
    )
    return (
        np.array([[0.210, 0.794, -0.004], [1.978, -2.429, 0.451], [0.026, 0.783, -0.809]]) @ cones
    )
