"""The coefficients of an average."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

from swa_tools.errors import SwaToolsError
from swa_tools.options import option


class Weighting(Protocol):
    """How much each checkpoint counts."""

    @property
    def name(self) -> str:
        """What the metadata calls it."""

    def coefficients(self, n: int) -> tuple[float, ...]:
        """Return a factor for each of n checkpoints, in their order.

        The average is the sum of factor × checkpoint, divided by the sum of the factors.

        Raises:
            SwaToolsError: The weighting does not fit that number of checkpoints.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Uniform:
    """Every checkpoint counts the same: the average of Izmailov et al. 2018, section 3.2."""

    name = "uniform"

    def coefficients(self, n: int) -> tuple[float, ...]:
        """See `Weighting`."""
        return (1.0,) * n


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """Factors given one by one; they are normalised, zero is allowed."""

    values: Sequence[float]
    allow_negative: bool = False
    name = "weights"

    def coefficients(self, n: int) -> tuple[float, ...]:
        """See `Weighting`."""
        if len(self.values) != n:
            raise SwaToolsError(
                f"weights: expected one for each of {n} checkpoints, found {len(self.values)}"
            )
        _check_factors(self.values, allow_negative=self.allow_negative)
        return tuple(float(value) for value in self.values)


@dataclasses.dataclass(frozen=True, slots=True)
class Ema:
    """An exponential moving average over the checkpoints, the last one counting most.

    a_1 = w_1, a_k = decay · a_{k−1} + (1 − decay) · w_k.
    """

    decay: float
    name = "ema"

    def coefficients(self, n: int) -> tuple[float, ...]:
        """See `Weighting`."""
        if not 0 <= self.decay < 1:
            raise SwaToolsError(f"EMA decay: expected at least 0 and below 1, found {self.decay}")
        rest = [(1 - self.decay) * self.decay ** (n - k) for k in range(2, n + 1)]
        return (self.decay ** (n - 1), *rest)


@dataclasses.dataclass(frozen=True, slots=True)
class Interpolate:
    """(1 − t) · first + t · second, of two checkpoints (WiSE-FT, Wortsman et al. 2022)."""

    t: float
    allow_negative: bool = False
    name = "interpolate"

    def coefficients(self, n: int) -> tuple[float, ...]:
        """See `Weighting`."""
        if n != 2:
            raise SwaToolsError(f"interpolation: expected two checkpoints, found {n}")
        factors = (1.0 - self.t, self.t)
        _check_factors(factors, allow_negative=self.allow_negative)
        return factors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightingOptions:
    """A weighting as a person says it: one of the first three, or none for the uniform one."""

    weights: tuple[float, ...] | None = option(
        None, help="One factor per checkpoint.", section="How", metavar="W,W,…"
    )
    ema: float | None = option(
        None, help="Exponential moving average.", section="How", metavar="DECAY"
    )
    interpolate: float | None = option(
        None, help="(1 - T) x first + T x second.", section="How", metavar="T"
    )
    allow_negative: bool = option(False, help="Let factors be negative.", section="How")

    @property
    def weighting(self) -> Weighting:
        """The weighting that they mean.

        Raises:
            ValueError: They mean several.
        """
        if sum(one is not None for one in (self.weights, self.ema, self.interpolate)) > 1:
            raise ValueError("Give one of --weights, --ema and --interpolate.")
        if self.weights is not None:
            return Weights(self.weights, self.allow_negative)
        if self.ema is not None:
            return Ema(self.ema)
        if self.interpolate is not None:
            return Interpolate(self.interpolate, self.allow_negative)
        return Uniform()


def _check_factors(factors: Sequence[float], *, allow_negative: bool) -> None:
    if not all(math.isfinite(factor) for factor in factors):
        raise SwaToolsError(f"weights: expected numbers, found {list(factors)}")
    if not allow_negative and any(factor < 0 for factor in factors):
        raise SwaToolsError(
            f"weights: {min(factors)} is negative; give --allow-negative if that is meant"
        )
    if sum(factors) == 0:
        raise SwaToolsError("weights: their sum is 0, so there is no average")
    if not 1e-200 < abs(sum(factors)) < 1e200:  # the products would leave float64's range
        raise SwaToolsError(f"weights: expected a sum of ordinary size, found {sum(factors)}")
