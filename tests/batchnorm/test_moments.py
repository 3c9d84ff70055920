import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.batchnorm.moments import batch_moments

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def relative_error(found, values):
    """Return the largest relative error of the variances of activations (N, C, …)."""
    by_channel = values.double().transpose(0, 1).flatten(1).numpy()
    return np.max(np.abs(found.numpy() / by_channel.var(1) - 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_batches_keep_their_digits_in_any_layout(layout):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(128, 16, 48, 48, generator=generator).mul_(0.5).add_(2).clamp_(0, 6)
    values = values.contiguous(memory_format=layout)
    _, variance = batch_moments(values)
    assert relative_error(variance, values) < 1e-6


@given(
    shape=st.sampled_from([(7, 3), (5, 3, 4), (4, 3, 2, 5), (2, 3, 2, 3, 2), (1, 3, 6)]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    offset=st.floats(-50, 50),
    seed=st.integers(0, 99),
)
def test_they_are_those_of_numpy(shape, dtype, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(shape, generator=generator) + offset).to(dtype)
    before = values.clone()
    mean, variance = batch_moments(values)
    by_channel = values.double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(mean, by_channel.mean(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variance, by_channel.var(1), rtol=1e-5, atol=1e-6)
    assert (mean.dtype, variance.dtype) == (torch.float64, torch.float64)
    assert values.equal(before)
