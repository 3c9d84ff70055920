"""Pictures as files: the options that all drawing commands share, and how to write them."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from swa_tools.cli.shared_options import OutputOptions
from swa_tools.options import option

if TYPE_CHECKING:
    from swa_tools.report import Picture


def parse_size(text: str) -> tuple[float, float]:
    """Read `WIDTHxHEIGHT`, in inches.

    Raises:
        ValueError: The text is something else.
    """
    width, _, height = text.lower().replace("×", "x").partition("x")
    try:
        return float(width), float(height)
    except ValueError as error:
        raise ValueError(f"expected inches such as 6.4x4, found {text!r}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What a picture looks like in its file."""

    size: tuple[float, float] | None = option(
        None, help="Width and height of the picture, in inches.", metavar="WxH", parse=parse_size
    )
    dpi: float = option(200, help="Resolution of a PNG, in dots per inch.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DrawingOptions(OutputOptions, PictureOptions):
    """Where the numbers of a picture go, or come from, and what is made of them."""

    output: Path | None = option(
        None,
        help="File for the numbers; the picture goes next to it.",
        short="-o",
        metavar="FILE.npz",
    )
    plots: tuple[Path, ...] = option(
        (),
        help="Picture to draw (.png, .svg, .pdf); may be repeated.",
        flag="--plot",
        metavar="FILE",
        shown_default="FILE.png",
    )
    source: Path | None = option(
        None,
        help="Draw from these numbers instead of measuring again.",
        flag="--from",
        metavar="FILE.npz",
    )

    @property
    def numbers(self) -> Path:
        """The file with the numbers; the working directory if they are not kept in a file."""
        return self.source or self.output or Path()

    @property
    def files(self) -> tuple[Path, ...]:
        """The pictures to draw."""
        has_file = self.numbers != Path()
        return self.plots or ((self.numbers.with_suffix(".png"),) if has_file else ())


def save_picture(
    picture: "Picture",
    path: str | Path,
    *,
    options: PictureOptions | None = None,
    force: bool = False,
) -> None:
    """Write a picture as PNG, SVG or PDF, according to its name; whole or not at all.

    Raises:
        OutputError: The name does not end in one of these, or the file cannot be written.
    """
    from swa_tools.checkpoints import atomic_output
    from swa_tools.report import picture_format

    path = Path(path)
    options = options or PictureOptions()
    content = picture.render(picture_format(path), size=options.size, dpi=options.dpi)
    with atomic_output(path, force=force) as file:
        file.write(content)
