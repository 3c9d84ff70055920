import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swa_tools.report.style import LIGHT


@pytest.fixture
def figure_of():
    """Draw a picture and return its figure."""

    def draw(picture, size=None):
        figure = Figure(figsize=size or picture.size, layout="constrained")
        FigureCanvasAgg(figure)
        picture.draw(figure, LIGHT)
        figure.draw_without_rendering()
        return figure

    return draw
