import json

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from swa_tools.records import Record, append_records
from swa_tools.report.figures.comparison import comparison_picture, group_colors
from swa_tools.report.groups import replicates
from swa_tools.report.runs import load_runs
from swa_tools.report.style import LIGHT


def axes_of(picture):
    figure = Figure(figsize=picture.size)
    picture.draw(figure, LIGHT)
    return figure.axes[0]


def line(axes, label):
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


def stars(axes):
    return [one for one in axes.lines if one.get_marker() == "*" and len(one.get_xdata())]


def add_running_average(folder, *, n):
    append_records(
        folder / "metrics.jsonl",
        [
            Record(
                event="evaluation",
                checkpoint="swa.safetensors",
                kind="average",
                bn="updated",
                split="val",
                n_samples=1000,
                top1=64.0 + i,
                epoch=float(i),
            )
            for i in range(1, n + 1)
        ],
    )


def test_a_run_that_continues_another_is_drawn_from_there(write_run):
    early = write_run("early", n_cycles=5)
    late = write_run("late", from_run=str(early), average=70.0)
    earlier = {"n_epochs": 5.0, "start_digest": "d0", "options": {}}
    path = late / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "earlier": earlier}))
    axes = axes_of(comparison_picture(load_runs([late, early])))
    assert list(line(axes, "early").get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert list(line(axes, "late").get_xdata()) == [5, 6, 7, 8]
    assert [list(star.get_xdata()) for star in stars(axes)] == [[8]]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 3, 2), (3, 2, 1, 0)])
def test_colours_say_what_a_run_is_whatever_the_order(write_run, order):
    folders = [
        write_run("swa", average=70.0),
        write_run("sgd", n_cycles=1, n_epochs=3),
        write_run("swa2", average=69.0, lr_max=1.0),
        write_run("plain", lr_max=2.0),
    ]
    runs = load_runs([folders[i] for i in order])
    groups = replicates(runs)
    colors = dict(
        zip((group[0].name for group in groups), group_colors(groups, LIGHT), strict=True)
    )
    first, second = sorted(("swa", "swa2"), key=[run.name for run in runs].index)
    assert colors["sgd"] == LIGHT.sgd
    assert colors[first] == LIGHT.swa
    assert colors[second] not in (LIGHT.swa, LIGHT.sgd)
    assert colors["plain"] not in (LIGHT.swa, LIGHT.sgd)
    assert len(set(colors.values())) == 4
    axes = axes_of(comparison_picture(runs))
    assert to_hex(line(axes, "sgd").get_color()) == LIGHT.sgd


def test_stars_are_hollow_at_the_end_of_a_running_average(write_run):
    running, later = write_run("running"), write_run("later", average=70.0, lr_max=1.0)
    add_running_average(running, n=3)
    axes = axes_of(comparison_picture(load_runs([running, later])))
    hollow, filled = stars(axes)
    assert to_hex(hollow.get_markerfacecolor()) == LIGHT.paper
    assert to_hex(filled.get_markerfacecolor()) == to_hex(filled.get_color())
    assert list(hollow.get_ydata()) == [100 - 67.0]


def test_message_of_many_runs_tells_the_lowest_and_the_highest(write_run):
    folders = [write_run(f"r{i}", lr_max=float(i), average=60.0 + i) for i in range(6)]
    assert comparison_picture(load_runs(folders)).message == (
        "Test error over the epochs of 6 kinds of run. At the end, the lowest is the average of r5,"
        " 35.00 %; the highest is the average of r0, 40.00 %."
    )


def test_message_of_few_runs_tells_all(write_run):
    folders = [write_run("a", average=61.0), write_run("b", n_cycles=1, top1=60.0)]
    message = comparison_picture(load_runs(folders)).message
    assert "the average of a, 39.00 %; the last capture of b, 39.00 %." in message


def test_long_names_are_shortened_in_the_legend_alone(write_run):
    name = "imagenet-resnet50-sawtooth-0.05-1"
    picture = comparison_picture(load_runs([write_run(name), write_run("b", lr_max=1.0)]))
    assert line(axes_of(picture), "imagenet-…oth-0.05-1")
    assert name in picture.message
