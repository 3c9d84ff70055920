import pytest

from swa_tools.records import Record
from swa_tools.report.figures.demo import demo_curves, demo_picture


def score(kind, top1, *, epoch, **fields):
    fields = {"split": "val", "n_samples": 400, "top1": top1, "epoch": epoch} | fields
    return Record(event="evaluation", kind=kind, **fields)


def capture(number, top1):
    name = f"cycle-{number:03d}.safetensors"
    return score("checkpoint", top1, epoch=float(number), lr=0.05, checkpoint=name)


START = [
    score("start", 10.0, epoch=0.0),
    score(None, 80.0, epoch=1.0),
    score(None, 90.0, epoch=2.0),
]
CONTROL = [score("start", 90.0, epoch=0.0), score(None, 92.0, epoch=1.0), capture(2, 93.0)]
SWA = [
    score("start", 90.0, epoch=0.0),
    capture(1, 85.0),
    score("average", 88.0, epoch=1.0, bn="updated"),
    capture(2, 86.0),
    score("average", 94.0, epoch=2.0, bn="updated"),
]


@pytest.fixture
def curves():
    return demo_curves(START, CONTROL, SWA, start_epochs=2)


def test_three_runs_stand_on_one_axis_of_epochs(curves):
    assert curves.start == ((0.0, 10.0), (1.0, 80.0), (2.0, 90.0))
    assert curves.control == ((2.0, 90.0), (3.0, 92.0), (4.0, 93.0))
    assert curves.captures == ((3.0, 85.0), (4.0, 86.0))
    assert curves.averages == ((3.0, 88.0), (4.0, 94.0))
    assert curves.n_samples == 400


def test_the_message_says_where_everything_ends(curves):
    message = demo_picture(curves).message
    assert "2 captures lie between 85.00 and 86.00 %" in message
    assert "their average is at 94.00 %" in message
    assert "conventional training for the same number of epochs ends at 93.00 %" in message


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_drawn_on_either_paper(curves, theme):
    content = demo_picture(curves).render("png", theme=theme, dpi=60)
    assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize("apart", [0.0, 0.1, 40.0])
def test_no_two_texts_overlap(apart):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from swa_tools.report.style import LIGHT

    control = [*CONTROL[:-1], capture(2, 94.0 - apart)]
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    demo_picture(demo_curves(START, control, SWA, start_epochs=2)).draw(figure, LIGHT)
    canvas.draw()
    boxes = [one.get_window_extent(canvas.get_renderer()) for one in figure.axes[0].texts]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1 :])
