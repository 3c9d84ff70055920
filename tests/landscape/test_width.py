import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.landscape.width import (
    crossing,
    lowest,
    mean_interval,
    ray_widths,
    segment_widths,
    student_t,
    width_differences,
)


def test_crossing_lies_on_the_line_between_two_points():
    distances, values = np.array([0.0, 1, 2, 4]), np.array([10.0, 10, 12, 20])
    assert crossing(distances, values, 11) == 1.5
    assert crossing(distances, values, 12) == 2
    assert crossing(distances, values, 14) == 2.5
    assert crossing(distances, values, 21) == math.inf
    assert crossing(distances, values, 9) == 0


def test_crossing_is_the_first_one():
    assert crossing(np.arange(4.0), np.array([0.0, 2, 0, 2]), 1) == 0.5


def test_a_point_without_a_value_is_beyond_any_level():
    assert crossing(np.arange(3.0), np.array([0.0, 0.5, math.nan]), 5) == 2


@given(st.floats(0.1, 10), st.floats(0.1, 5))
def test_crossing_of_a_straight_line_is_exact(slope, level):
    distances = np.linspace(0, 60, 200)
    assert crossing(distances, slope * distances, level) == pytest.approx(level / slope, rel=1e-9)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (99, 1.98422)]
)
def test_student_t_is_that_of_the_tables(degrees, quantile):
    assert student_t(degrees) == pytest.approx(quantile, rel=1e-4)


def test_interval_of_a_mean_holds_it_in_95_of_100_cases():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        _, low, high = mean_interval(random.normal(3, 2, 10))
        held += low <= 3 <= high
    assert 930 <= held <= 970


def test_no_interval_from_one_value_or_from_a_level_not_reached():
    assert mean_interval([1.0]) is None
    assert mean_interval([1.0, math.inf]) is None


def test_width_of_parabolas_is_the_root_of_the_growth():
    t = np.linspace(0, 10, 4001)
    curvatures = np.array([0.5, 1.0, 2.0])
    widths = ray_widths(t, 30 + curvatures[:, None] * t**2)
    for growth in (1, 5):
        expected = np.sqrt(growth / curvatures)
        found = widths[f"{growth}"]
        np.testing.assert_allclose(found["distances"], expected, rtol=1e-4)
        assert found["mean"] == pytest.approx(expected.mean(), rel=1e-4)
        assert found["interval"][0] < found["mean"] < found["interval"][1]
        assert found["n_reached"] == 3


def test_rays_that_do_not_reach_a_growth_leave_no_mean():
    t = np.linspace(0, 3, 301)
    found = ray_widths(t, np.stack([t**2, t]))["5"]
    assert found["distances"][1] is None
    assert found["n_reached"] == 1
    assert found["mean"] is None
    assert found["interval"] is None


def test_difference_of_widths_is_taken_ray_by_ray():
    """Rays differ widely among each other, and each is wider by 1 from the first checkpoint."""
    widths = np.array([2.0, 5, 11, 30])
    t = np.linspace(0, 200, 20_001)
    first, second = (ray_widths(t, t / w[:, None]) for w in (widths + 1, widths))
    found = width_differences(first, second)["1"]
    assert found["mean"] == pytest.approx(1, abs=1e-6)
    assert found["interval"] == pytest.approx([1, 1], abs=1e-6)
    short = ray_widths(np.linspace(0, 12, 100), np.linspace(0, 12, 100) / widths[:, None])
    assert width_differences(short, short)["1"] is None


def test_lowest_of_equal_errors_is_the_middle_one():
    assert lowest(np.array([3.0, 1, 1, 1, 2])) == 2
    assert lowest(np.array([3.0, 1, 1, 2])) == 2


def segment(errors, *, positions, n=2000):
    """Whole images, each with its own threshold, so that points are as paired as real ones."""
    thresholds = 100 * (np.arange(n) + 0.5) / n
    return thresholds >= errors[:, None], positions


def test_segment_tells_shift_and_asymmetry():
    positions = np.linspace(-20, 40, 121)
    errors = 30 + np.where(positions < 0, 0.02 * positions**2, 0.08 * positions**2)
    is_correct, positions = segment(errors, positions=positions)
    found = segment_widths(positions, objective=(positions - 10) ** 2, is_correct=is_correct)
    assert found["train_minimum"] == 10
    assert abs(found["test_minimum"]) <= 1
    assert found["shift"] == found["test_minimum"] - 10
    low, high = found["shift_interval"]
    assert low <= found["shift"] <= high
    sides = found["sides"]["5"]
    assert sides["away"] == pytest.approx(math.sqrt(5 / 0.02), rel=0.02)
    assert sides["toward"] == pytest.approx(math.sqrt(5 / 0.08), rel=0.02)
    assert sides["asymmetry"] == pytest.approx(1 / 3, rel=0.05)


def test_segment_without_a_rise_has_no_asymmetry():
    positions = np.linspace(-1, 2, 7)
    is_correct, positions = segment(np.full(7, 30.0), positions=positions)
    sides = segment_widths(positions, objective=positions**2, is_correct=is_correct)["sides"]
    assert sides["1"] == {"away": None, "toward": None, "asymmetry": None}
