import pytest

from swa_tools.records import Record
from swa_tools.report.figures.run_curves import run_curves, run_picture, with_jumps
from swa_tools.report.style import LIGHT


def step(number, lr, *, steps_per_epoch=10):
    return Record(event="step", step=number, epoch=number / steps_per_epoch, lr=lr, train_loss=1.0)


def score(kind, top1, **fields):
    return Record(event="evaluation", kind=kind, split="val", top1=top1, **fields)


RUN = [
    score("start", 60.0, epoch=0.0),
    step(5, 0.06),
    score(None, 58.0, epoch=0.5, lr=0.06),
    step(10, 0.01),
    score("checkpoint", 61.0, epoch=1.0, lr=0.01, checkpoint="cycle-001.safetensors"),
    step(15, 0.06),
    step(20, 0.01),
    score("checkpoint", 62.0, epoch=2.0, lr=0.01, checkpoint="cycle-002.safetensors"),
]


def test_curves_hold_what_the_records_say():
    curves = run_curves(RUN)
    assert curves.lr == ((0.5, 0.06), (1.0, 0.01), (1.5, 0.06), (2.0, 0.01))
    assert curves.top1 == ((0.0, 60.0), (0.5, 58.0), (1.0, 61.0), (2.0, 62.0))
    assert curves.captures == ((1.0, 61.0), (2.0, 62.0))
    assert curves.capture_lrs == ((1.0, 0.01), (2.0, 0.01))
    assert curves.start == 60.0
    assert curves.average is None


def test_later_scores_replace_earlier_ones():
    again = score("checkpoint", 61.5, epoch=1.0, lr=0.01, checkpoint="cycle-001.safetensors")
    assert run_curves([*RUN, again]).captures == ((1.0, 61.5), (2.0, 62.0))


def test_of_several_averages_the_newest_is_drawn_and_named():
    older = score("average", 64.0, bn="updated", checkpoint="zz.safetensors")
    newer = score("average", 63.0, bn="updated", checkpoint="a.safetensors")
    swept = score("average", 10.0, bn="updated", checkpoint="last-02.safetensors")
    curves = run_curves([*RUN, older, newer, swept])
    assert (curves.average, curves.average_name) == (63.0, "average a")
    assert "the average a is at 63.00 %" in run_picture([*RUN, older, newer]).message


def test_averages_with_stale_statistics_and_training_scores_are_left_out():
    stale = score("average", 10.0, bn="stale")
    updated = score("average", 63.0, bn="updated")
    on_train = Record(event="evaluation", kind="average", split="train", top1=99.0, bn="updated")
    curves = run_curves([*RUN, updated, stale, on_train])
    assert curves.average == 63.0


def test_one_average_is_a_point_and_several_with_epochs_are_a_curve():
    first, second = score("average", 62.5, epoch=1.0), score("average", 63.0, epoch=2.0)
    assert run_curves([*RUN, first]).averages == ()
    curves = run_curves([*RUN, first, second])
    assert curves.averages == ((1.0, 62.5), (2.0, 63.0))
    assert curves.average == 63.0


def test_jumps_are_vertical_and_reach_where_the_cycle_begins():
    """A sawtooth from 10 down to 0 over 10 steps, recorded at every fourth and at its end."""
    points = [(4, 6), (8, 2), (10, 0), (14, 6), (18, 2), (20, 0)]
    expected = [(0, 10), (4, 6), (8, 2), (10, 0), (10, 10), (14, 6), (18, 2), (20, 0)]
    assert with_jumps(points) == expected


def test_a_cycle_that_was_recorded_twice_is_drawn_from_its_beginning():
    """The first record of the new cycle is near its end; that it is a new one is known."""
    assert with_jumps([(0, 10), (10, 0), (18, 2), (20, 0)], ends={10}) == [
        *[(0, 10), (10, 0), (10, 10), (18, 2), (20, 0)]
    ]


@pytest.mark.parametrize("ends", [(), {8}])
def test_a_continuous_schedule_has_no_jumps(ends):
    triangle = [(0, 10), (2, 6), (3, 4), (4, 6), (5, 8), (7, 8), (8, 9), (9, 9.5), (10, 8)]
    assert with_jumps(triangle, ends=ends) == triangle


def test_a_jump_to_a_single_record_goes_to_its_height():
    assert with_jumps([(0, 5), (1, 0), (2, 5)]) == [(0, 5), (1, 0), (1, 5), (2, 5)]


def test_ends_of_cycles_are_known_from_the_records():
    numbered = [
        Record(event="step", epoch=0.5 * i, lr=0.1 / i, cycle=(i + 1) // 2) for i in range(1, 7)
    ]
    assert run_curves(numbered).cycle_ends == (1.0, 2.0)


def test_message_says_what_the_picture_shows():
    message = run_picture([*RUN, score("average", 63.25, bn="updated")]).message
    assert "2 captures" in message
    assert "between 61.00 and 62.00 %" in message
    assert "start is at 60.00 %" in message
    assert "average is at 63.25 %" in message


def test_message_on_one_capture_has_no_range():
    assert "at the only capture is 61.00 %" in run_picture(RUN[:5]).message


def axes_of(picture):
    from matplotlib.figure import Figure

    figure = Figure(figsize=picture.size)
    picture.draw(figure, LIGHT)
    return figure.axes


@pytest.mark.parametrize("n_epochs", [1, 2, 3, 5, 10, 300])
def test_ticks_are_at_whole_epochs_where_the_captures_are(n_epochs):
    captures = [score("checkpoint", 60.0 + i, epoch=float(i)) for i in range(1, n_epochs + 1)]
    ticks = axes_of(run_picture(captures))[-1].get_xticks()
    assert len(ticks)
    assert all(tick == round(tick) for tick in ticks)


def test_a_long_name_is_cut_in_the_legend_alone():
    name = "an-average-with-a-long-name-indeed"
    long = score("average", 63.0, bn="updated", checkpoint=f"{name}.safetensors")
    picture = run_picture([*RUN, long])
    _, labels = axes_of(picture)[-1].get_legend_handles_labels()
    assert "average a…ame-indeed, 63.00 %" in labels
    assert name in picture.message


@pytest.mark.parametrize("records", [[], RUN[1:2], RUN[:1], RUN])
def test_any_records_can_be_drawn(records):
    assert run_picture(records).render("png", dpi=40).startswith(b"\x89PNG")
