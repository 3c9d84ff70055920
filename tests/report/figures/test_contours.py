import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swa_tools.report.figures.contours import N_LEVELS, contour_levels


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_contour_levels_crowd_around_the_lowest_value(scale):
    x = np.linspace(-1, 1, 21)
    bowl = 3 * scale + scale * (x[:, None] ** 2 + x[None, :] ** 2)
    levels = contour_levels(bowl)
    assert np.all(np.diff(levels) > 0)
    assert levels[0] > bowl.min()
    assert levels[-1] < bowl.max()
    assert np.all(np.diff(levels, 2) > -1e-9 * scale)


@given(
    low=st.floats(-1e3, 1e3),
    rises=st.lists(st.floats(0, 100), min_size=1, max_size=30),
)
@example(low=-1e-05, rises=[1e-05])
def test_contour_levels_ascend_from_above_the_lowest_value(low, rises):
    values = low + np.array([0.0, *rises])
    levels = contour_levels(values)
    assert np.all(np.diff(levels) > 0)
    assert levels[0] > values.min()


def test_contour_levels_of_a_flat_surface_exist():
    levels = contour_levels(np.full((3, 3), 7.0))
    assert len(levels) >= 2
    assert np.all(np.diff(levels) > 0)


def test_contour_levels_of_no_values_do_not_exist():
    assert contour_levels(np.full((3, 3), np.nan)).size == 0


@pytest.mark.parametrize("n_images", [100, 1000, 50_000])
def test_contour_levels_are_round_and_no_finer_than_an_image(n_images):
    random = np.random.default_rng(n_images)
    x = np.linspace(-1, 1, 15)
    errors = 35 + 2 * (x[:, None] ** 2 + x[None, :] ** 2) + 0.1 * random.standard_normal((15, 15))
    unit = 100 / n_images
    errors = np.round(errors / unit) * unit
    levels = contour_levels(errors, unit=unit)
    assert 2 <= len(levels) <= N_LEVELS
    assert np.diff(levels).min() >= unit * (1 - 1e-9)
    assert levels == pytest.approx(np.round(levels, 1), abs=1e-9)
    # Not all of them around one point of the grid.
    assert np.sum(errors <= levels[0] + 1e-9) >= 3


def test_contour_levels_span_a_wide_range():
    x = np.linspace(-1, 1, 41)
    surface = 5 + 80 * (x[:, None] ** 2 + x[None, :] ** 2)
    levels = contour_levels(surface, unit=0.01)
    assert levels[0] < 10
    assert levels[-1] >= 80
