"""Pictures as files: the options that all drawing commands share, and the writing."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.declared import Decorator

if TYPE_CHECKING:
    from swa_tools.report import Picture


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """`WIDTHxHEIGHT`, in inches."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Return the pair; fail with a usage error where it is none."""
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).lower().replace("×", "x").partition("x")
        try:
            return float(width), float(height)
        except ValueError:
            self.fail(f"expected inches such as 6.4x4, found {value!r}", param, ctx)


def picture_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--size` and `--dpi`."""
    for option in (_DPI, _SIZE):
        function = option(function)
    return function


_SIZE: Decorator = click.option(
    "--size", type=Size(), metavar="WxH", help="Width and height of the picture, in inches."
)
_DPI: Decorator = click.option(
    "--dpi", type=float, default=200, show_default=True, help="Dots per inch of a PNG."
)


def save_picture(
    picture: "Picture",
    path: str | Path,
    *,
    size: tuple[float, float] | None = None,
    dpi: float = 200,
    force: bool = False,
) -> None:
    """Write a picture as PNG, SVG or PDF, as its name says; whole or not at all.

    Raises:
        OutputError: The name asks for no such format, or the file cannot be written.
    """
    from swa_tools.checkpoints import atomic_output
    from swa_tools.report import picture_format

    path = Path(path)
    content = picture.render(picture_format(path), size=size, dpi=dpi)
    with atomic_output(path, force=force) as file:
        file.write(content)
