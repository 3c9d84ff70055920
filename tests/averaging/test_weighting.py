"""Coefficients, against their formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.averaging import Ema, Interpolate, Uniform, Weights
from swa_tools.errors import SwaToolsError

FACTORS = st.lists(st.floats(-100, 100), min_size=1, max_size=6)


@given(st.integers(1, 100))
def test_uniform_counts_all_the_same(n):
    assert Uniform().coefficients(n) == (1.0,) * n


@given(decay=st.floats(0, 0.9999), n=st.integers(1, 20))
def test_ema_coefficients_are_those_of_the_recursion(decay, n):
    factors = Ema(decay).coefficients(n)
    recursion = [1.0] + [0.0] * (n - 1)
    for k in range(1, n):
        recursion = [decay * factor for factor in recursion]
        recursion[k] += 1 - decay
    assert factors == pytest.approx(recursion, abs=1e-12)
    assert math.fsum(factors) == pytest.approx(1)


@given(st.floats(0, 1))
def test_interpolation_goes_from_first_to_second(t):
    assert Interpolate(t).coefficients(2) == (1 - t, t)


@given(FACTORS)
def test_weights_are_taken_as_they_are_or_refused(factors):
    if any(factor < 0 for factor in factors) or sum(factors) <= 1e-200:
        with pytest.raises(SwaToolsError, match="weights: "):
            Weights(factors).coefficients(len(factors))
    else:
        assert Weights(factors).coefficients(len(factors)) == tuple(factors)


@pytest.mark.parametrize(
    ("weighting", "n", "message"),
    [
        (Weights((1, 2)), 3, "expected one for each of 3 checkpoints, found 2"),
        (Weights((1, -1, 3)), 3, "-1 is negative; give --allow-negative"),
        (Weights((0, 0)), 2, "their sum is 0"),
        (Weights((1, -1), allow_negative=True), 2, "their sum is 0"),
        (Weights((1e308, 1e308)), 2, "expected a sum of ordinary size, found inf"),
        (Weights((1e-320, 1e-320)), 2, "expected a sum of ordinary size, found 2e-320"),
        (Weights((1, math.nan)), 2, "expected numbers"),
        (Weights((1, math.inf)), 2, "expected numbers"),
        (Ema(1.0), 3, "expected at least 0 and below 1, found 1.0"),
        (Ema(-0.1), 3, "expected at least 0 and below 1"),
        (Ema(math.nan), 3, "expected at least 0 and below 1"),
        (Interpolate(0.5), 3, "expected two checkpoints, found 3"),
        (Interpolate(1.5), 2, "is negative; give --allow-negative"),
        (Interpolate(math.nan), 2, "expected numbers"),
    ],
)
def test_factors_that_make_no_average_are_refused(weighting, n, message):
    with pytest.raises(SwaToolsError, match=message):
        weighting.coefficients(n)


def test_negative_factors_pass_where_they_are_allowed():
    assert Weights((-1, 3), allow_negative=True).coefficients(2) == (-1, 3)
    assert Interpolate(1.5, allow_negative=True).coefficients(2) == (-0.5, 1.5)
