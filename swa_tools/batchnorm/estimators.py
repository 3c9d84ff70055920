"""The estimators of running statistics, as sums over the calls of a layer.

Let m_k and v_k be the mean and the biased variance of one channel in call k of a layer, n_k the
number of values behind them, and b_k the number of images in the batch. The estimators are

- `population`: mean = Σ n_k m_k / n and variance = Σ n_k v_k / n + Σ n_k (m_k − mean)² / n with
  n = Σ n_k: mean and biased variance of all values together. The default.
- `batch-mean`: mean = Σ m_k / K and variance = Σ v'_k / K over the K calls, with the unbiased
  v'_k = n_k v_k / (n_k − 1): what torch's `update_bn` (momentum=None) leaves behind.
- `sample-weighted`: mean = Σ b_k m_k / b and variance = Σ b_k v'_k / b with b = Σ b_k: what
  momentum b_k / (b_1 + … + b_k) leaves behind, as in the authors' `bn_update`.

All three are sums in float64, so any split of the same calls over ranks gives the same statistics
up to rounding.
"""

import torch

from swa_tools.batchnorm.options import Estimator
from swa_tools.distributed import float64_device


class Moments:
    """The calls of one layer so far: one weight, and a mean and a spread per channel.

    The spread divided by the weight is the variance. Tensors are (C,), float64.

    Args:
        n_channels: C.
        estimator: Which of the three.
        device: Where the statistics are; the sums are kept there, or on the CPU if the device has
            no float64.
    """

    def __init__(self, n_channels: int, *, estimator: Estimator, device: torch.device) -> None:
        self.estimator = estimator
        self.weight = 0
        self.n_calls = 0
        self.mean = torch.zeros(n_channels, dtype=torch.float64, device=float64_device(device))
        self.spread = torch.zeros_like(self.mean)

    def add(
        self, mean: torch.Tensor, variance: torch.Tensor, *, count: int, batch_size: int
    ) -> None:
        """Add one call.

        Args:
            mean: Mean of each channel's values, (C,).
            variance: Their biased variance, (C,).
            count: Number of values in each channel, at least 2.
            batch_size: Number of images.
        """
        unbiased = count / (count - 1)
        weight, spread_per_variance = {
            "population": (count, count),
            "batch-mean": (1, unbiased),
            "sample-weighted": (batch_size, batch_size * unbiased),
        }[self.estimator]
        device = self.mean.device
        # Move first, convert second: MPS has no float64.
        spread = variance.to(device).double() * spread_per_variance
        self._merge(weight, mean.to(device).double(), spread)
        self.n_calls += 1

    def merge(self, other: "Moments") -> None:
        """Add all the calls of `other`, which is not changed."""
        if other.n_calls > 0:
            device = self.mean.device
            self._merge(other.weight, other.mean.to(device), other.spread.to(device))
            self.n_calls += other.n_calls

    def variance(self) -> torch.Tensor:
        """Return the variance of each channel, (C,)."""
        return self.spread / self.weight

    def to(self, device: str) -> "Moments":
        """Move the sums to the device; returns itself."""
        self.mean, self.spread = self.mean.to(device), self.spread.to(device)
        return self

    def _merge(self, weight: int, mean: torch.Tensor, spread: torch.Tensor) -> None:
        # Chan, Golub & LeVeque 1983; only `population` counts the distance between the means.
        total = self.weight + weight
        delta = mean - self.mean
        self.mean += delta * (weight / total)
        self.spread += spread
        if self.estimator == "population":
            self.spread += delta.square() * (self.weight * weight / total)
        self.weight = total
