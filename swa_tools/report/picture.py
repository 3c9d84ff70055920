"""A picture, drawn for where it will be seen: PNG, SVG or PDF, light or dark, any size."""

import dataclasses
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from swa_tools.errors import OutputError
from swa_tools.report.style import THEMES, Theme, ThemeName, matplotlib_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
DPI = 200.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What to draw, and what it says.

    Attributes:
        title: What it shows, in a few words.
        message: What there is to see, in a sentence or two: the caption and alternative text.
        size: Width and height in inches.
        draw: Draws it on an empty figure.
        narrow_size: Width and height in inches on a narrow screen, where panels go below one
            another; None for the same as `size`.
    """

    title: str
    message: str
    size: tuple[float, float]
    draw: Callable[["Figure", Theme], None]
    narrow_size: tuple[float, float] | None = None

    def render(
        self,
        image_format: str,
        *,
        theme: ThemeName = "light",
        size: tuple[float, float] | None = None,
        dpi: float = DPI,
    ) -> bytes:
        """Return the picture as a file's content; the same data give the same bytes.

        Args:
            image_format: `png`, `svg` or `pdf`.
            theme: Colours of the picture, on light or dark paper.
            size: Width and height in inches; None for its own.
            dpi: Pixels per inch of a PNG.

        Raises:
            OutputError: There is no such format, or the picture would be too large.
        """
        if image_format not in FORMATS:
            raise OutputError(
                f"pictures are {', '.join(FORMATS)}, not {image_format!r}; choose one of these"
            )
        width, height = size or self.size
        n_pixels = width * height * dpi**2
        if not (width > 0 and height > 0 and dpi > 0 and n_pixels < 2e8):
            raise OutputError(
                f"a picture of {width:g} × {height:g} inches with {dpi:g} dots per inch: expected"
                " sizes above 0 and at most 200 million dots in total; give another --size or --dpi"
            )
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        colors = THEMES[theme]
        with mpl.rc_context(), warnings.catch_warnings():
            # A size too small for its text is drawn all the same, as well as possible.
            warnings.filterwarnings("ignore", message="constrained_layout not applied")
            mpl.rcdefaults()
            mpl.rcParams.update(matplotlib_settings(colors))
            figure = Figure(figsize=(width, height), layout="constrained")
            FigureCanvasAgg(figure)
            self.draw(figure, colors)
            buffer = io.BytesIO()
            no_time = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            figure.savefig(buffer, format=image_format, dpi=dpi, metadata=no_time.get(image_format))
        return buffer.getvalue()


def picture_format(path: Path) -> str:
    """Return the format that a file's name asks for.

    Raises:
        OutputError: The name has no suffix, or not one of a picture.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        expected = ", ".join(f".{name}" for name in FORMATS)
        raise OutputError(
            f"{path}: the name does not say which kind of picture to write; choose a name that ends"
            f" in {expected}"
        )
    return suffix
