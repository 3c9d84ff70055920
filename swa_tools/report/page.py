"""One HTML page about runs, which needs no network and no script and opens from a file.

Its looks are in `templates/`: `page.html`, the macros of `sections.html`, and `style.css`.
"""

import base64
from collections.abc import Sequence

import jinja2

from swa_tools import __version__
from swa_tools.report.contents import RunSection, Section
from swa_tools.report.picture import Picture
from swa_tools.report.style import DARK, LIGHT, ThemeName

NARROW_PIXELS = 640
"""Narrower screens get the narrow pictures."""

PIXELS_PER_INCH = 96


def render_page(title: str, overview: Section, sections: Sequence[RunSection]) -> bytes:
    """Return the page.

    Args:
        title: Title of the browser's window.
        overview: What comes before the runs, if there are several.
        sections: The runs.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("swa_tools.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["narrow_pixels"] = NARROW_PIXELS
    environment.filters |= {"pixels": _pixels, "svg_address": _svg_address}
    page = environment.get_template("page.html").render(
        title=title,
        overview=overview,
        runs=sections,
        light=LIGHT,
        dark=DARK,
        version=__version__,
    )
    return page.encode("utf-8", "replace")


def _pixels(inches: float) -> int:
    return round(PIXELS_PER_INCH * inches)


def _svg_address(picture: Picture, theme: ThemeName, size: tuple[float, float]) -> str:
    """Return an address that holds the drawn picture itself, for `src` and `srcset`."""
    svg = picture.render("svg", theme=theme, size=size)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
