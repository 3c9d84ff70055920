import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.statistics import mcnemar, wilson_interval


def test_wilson_interval_of_a_known_example():
    # 8 of 10: Wilson's interval is given as (0.490, 0.943) in textbooks.
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(49.02, abs=0.01)
    assert high == pytest.approx(94.33, abs=0.01)


@given(st.data(), st.integers(1, 10**6))
def test_wilson_interval_solves_its_equation(data, n):
    """Its ends are the p with |fraction − p| = z·sqrt(p(1−p)/n)."""
    k = data.draw(st.integers(0, n))
    for end in wilson_interval(k, n):
        p = end / 100
        assert 0 <= p <= 1
        if 1e-12 < p < 1 - 1e-12:
            distance = abs(k / n - p)
            assert distance == pytest.approx(1.959963985 * math.sqrt(p * (1 - p) / n), rel=1e-3)


@pytest.mark.parametrize(("n_correct", "n"), [(0, 10), (2, 4), (643, 1000), (50_000, 50_000)])
def test_a_percentage_serves_as_well_as_a_count(n_correct, n):
    top1 = 100 * n_correct / n
    assert wilson_interval(top1 / 100 * n, n) == pytest.approx(wilson_interval(n_correct, n))


def test_top1_on_a_thousand_images_carries_three_points():
    low, high = wilson_interval(660, 1000)
    assert high - low == pytest.approx(5.9, abs=0.1)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(b, c):
    n = b + c
    tail = sum(math.comb(n, i) for i in range(min(b, c) + 1))
    expected = min(1.0, 2 * tail / 2**n)
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mcnemar_holds_on_many_images():
    assert 0 < mcnemar(24_000, 26_000) < 1e-15
    assert mcnemar(25_000, 25_001) == pytest.approx(1.0, abs=0.01)
    assert mcnemar(0, 5000) == 0.0  # below the smallest float64
