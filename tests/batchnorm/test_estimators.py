import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.batchnorm.estimators import Moments

CPU = torch.device("cpu")
calls_of_a_layer = st.lists(
    st.tuples(st.integers(2, 9), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)),
    min_size=1,
    max_size=7,
)


def draw(calls, seed=0):
    """Values (n_k, C) of every call, in float64."""
    generator = np.random.default_rng(seed)
    return [offset + scale * generator.normal(size=(n, 3)) for n, offset, scale in calls]


def moments_of(values, estimator):
    moments = Moments(3, estimator=estimator, device=CPU)
    for call in values:
        moments.add(
            torch.tensor(call.mean(0)),
            torch.tensor(call.var(0)),
            count=len(call),
            batch_size=len(call),
        )
    return moments


@given(calls_of_a_layer)
def test_population_is_mean_and_variance_of_all_values_together(calls):
    values = draw(calls)
    moments = moments_of(values, "population")
    together = np.concatenate(values)
    scale = np.abs(together).max()
    np.testing.assert_allclose(moments.mean, together.mean(0), rtol=1e-11, atol=1e-13 * scale)
    np.testing.assert_allclose(moments.variance(), together.var(0), rtol=1e-9)


@given(calls_of_a_layer)
def test_batch_mean_counts_every_call_once(calls):
    values = draw(calls)
    moments = moments_of(values, "batch-mean")
    means, variances = zip(*((call.mean(0), call.var(0, ddof=1)) for call in values), strict=True)
    np.testing.assert_allclose(moments.mean, np.mean(means, axis=0), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(moments.variance(), np.mean(variances, axis=0), rtol=1e-9)


@given(calls_of_a_layer)
def test_sample_weighted_is_the_momentum_recursion_of_the_authors(calls):
    values = draw(calls)
    moments = moments_of(values, "sample-weighted")
    running_mean, running_var, n = np.zeros(3), np.ones(3), 0
    for call in values:
        momentum = len(call) / (n + len(call))
        running_mean = (1 - momentum) * running_mean + momentum * call.mean(0)
        running_var = (1 - momentum) * running_var + momentum * call.var(0, ddof=1)
        n += len(call)
    np.testing.assert_allclose(moments.mean, running_mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(moments.variance(), running_var, rtol=1e-9)


@pytest.mark.parametrize("estimator", ["population", "batch-mean", "sample-weighted"])
@given(calls=calls_of_a_layer, cut=st.integers(0, 7))
def test_calls_merged_in_two_parts_are_the_calls_in_one(estimator, calls, cut):
    values = draw(calls)
    whole = moments_of(values, estimator)
    merged = moments_of(values[:cut], estimator)
    merged.merge(moments_of(values[cut:], estimator))
    assert merged.n_calls == whole.n_calls
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(merged.variance(), whole.variance(), rtol=1e-9)
