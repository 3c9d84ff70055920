import io

import matplotlib as mpl
import pytest
from PIL import Image

from swa_tools.errors import OutputError
from swa_tools.report.picture import Picture, picture_format
from swa_tools.report.style import DARK, LIGHT


def draw_line(figure, theme):
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=theme.swa)
    axes.set_xlabel("x")


LINE = Picture(title="A line", message="It rises.", size=(3, 2), draw=draw_line)


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("image_format", ["png", "svg", "pdf"])
def test_same_data_give_the_same_bytes(image_format):
    assert LINE.render(image_format) == LINE.render(image_format)


def test_png_has_the_size_that_was_asked_for():
    image = Image.open(io.BytesIO(LINE.render("png", size=(4, 2.5), dpi=100)))
    assert image.size == (400, 250)


def test_paper_of_a_picture_is_that_of_its_theme():
    for theme, colors in (("light", LIGHT), ("dark", DARK)):
        image = Image.open(io.BytesIO(LINE.render("png", theme=theme))).convert("RGB")
        assert "#{:02x}{:02x}{:02x}".format(*image.getpixel((0, 0))) == colors.paper


def test_rendering_leaves_matplotlibs_settings_alone():
    before = dict(mpl.rcParams)
    LINE.render("png")
    assert dict(mpl.rcParams) == before


def test_settings_of_the_user_do_not_change_a_picture():
    expected = LINE.render("svg")
    with mpl.rc_context({"axes.facecolor": "red", "lines.linewidth": 9}):
        assert LINE.render("svg") == expected


@pytest.mark.parametrize("size", [(0, 2), (3, -1), (1000, 1000), (float("nan"), 1)])
def test_absurd_sizes_are_errors(size):
    with pytest.raises(OutputError, match="expected sizes above 0"):
        LINE.render("png", size=size)


def test_format_comes_from_the_name(tmp_path):
    assert picture_format(tmp_path / "a.PNG") == "png"
    assert picture_format(tmp_path / "a.b.svg") == "svg"
    for name in ("a", "a.jpeg"):
        with pytest.raises(OutputError, match="which kind of picture"):
            picture_format(tmp_path / name)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_all_colours_stand_out_from_the_paper(theme):
    """Text needs a contrast of 4.5, marks and lines one of 3 (WCAG 2.1)."""
    assert contrast(theme.ink, theme.paper) >= 7
    assert contrast(theme.muted, theme.paper) >= 4.5
    series = (theme.swa, theme.sgd, theme.ensemble, theme.ema, theme.soup, *theme.runs)
    assert min(contrast(color, theme.paper) for color in series) >= 3
