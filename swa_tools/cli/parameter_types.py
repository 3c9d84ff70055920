"""How the values of options are read.

The library checks paths, not click, so that a missing file is an error (status 1), not wrong usage
(status 2).
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from swa_tools.checkpoints.remote import as_path

COUNT = click.IntRange(min=1)


class PathOrUrl(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A path, of which nothing is checked here, or a URL."""

    name = "path"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002  # click's
        ctx: click.Context | None,  # noqa: ARG002  # click's
    ) -> Path:
        """Return the path."""
        return as_path(value)


PATH = PathOrUrl()


class KeyValue(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """`NAME=VALUE`; the value is read as JSON if it is JSON, else as text."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return the pair; fail with a usage error if there is no `=`."""
        if isinstance(value, tuple):
            return value
        name, separator, text = str(value).partition("=")
        if not separator or not name:
            self.fail(f"expected NAME=VALUE, found {value!r}", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


class NumberList(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Numbers separated by commas."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers; fail with a usage error if one of them is not a number."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected numbers separated by commas, found {value!r}", param, ctx)


class FiniteNumber(click.FloatRange):
    """A number in a range; unlike click's own type it refuses NaN and infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fail with a usage error if it is not one."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, found {value}", param, ctx)
        return number


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """What a function reads from text; its ValueError becomes a usage error."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the function reads."""
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
