"""Types of parameters that only `finetune` has."""

import math
from typing import Any

import click


class FiniteNumber(click.FloatRange):
    """A number in a range, neither NaN nor infinite, which click's own lets pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fail with a usage error where it is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, found {value}", param, ctx)
        return number


class KeptCheckpoints(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """`all`, `none` or a number: how many stay, None for all."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number; fail with a usage error where it is none."""
        words = {"all": None, "none": 0}
        if value in words:
            return words[value]
        if not str(value).isdecimal():
            self.fail(f"expected all, none or a number, found {value!r}", param, ctx)
        return int(value)


POSITIVE = FiniteNumber(min=0, min_open=True)
SHARE = FiniteNumber(min=0, max=1, max_open=True)
COUNT = click.IntRange(min=1)
