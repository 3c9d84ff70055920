import math
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.training.schedules import (
    Anneal,
    Constant,
    Cosine,
    MultiStep,
    Sawtooth,
    ShakeShake,
    Triangular,
)

HIGH, LOW = 0.05, 0.0001
CYCLE = 20


def three_cycles(schedule):
    return [schedule.lr(step) for step in range(1, 3 * CYCLE + 1)]


def test_sawtooth_is_the_formula_of_section_3_1_at_every_step_of_three_cycles():
    # np.linspace without its first point: c equal steps down from lr_max to lr_min.
    one_cycle = [HIGH - (HIGH - LOW) * k / CYCLE for k in range(1, CYCLE + 1)]
    schedule = Sawtooth(lr_max=HIGH, lr_min=LOW, cycle_steps=CYCLE)
    assert three_cycles(schedule) == pytest.approx(3 * one_cycle, rel=1e-12)


def test_sawtooth_ends_each_cycle_at_exactly_lr_min_and_is_captured_there():
    schedule = Sawtooth(lr_max=HIGH, lr_min=LOW, cycle_steps=CYCLE)
    captures = schedule.captures(3 * CYCLE)
    assert list(captures) == [20, 40, 60]
    assert {schedule.lr(step) for step in captures} == {LOW}
    assert schedule.lr(1) == pytest.approx(HIGH - (HIGH - LOW) / CYCLE, rel=1e-12)
    assert schedule.lr(21) == schedule.lr(1)


def test_triangular_falls_to_lr_min_in_mid_cycle_and_rises_again():
    half = CYCLE // 2
    down = [HIGH - (HIGH - LOW) * k / half for k in range(1, half + 1)]
    up = [LOW + (HIGH - LOW) * k / half for k in range(1, half + 1)]
    schedule = Triangular(lr_max=HIGH, lr_min=LOW, cycle_steps=CYCLE)
    assert three_cycles(schedule) == pytest.approx(3 * (down + up), rel=1e-12)
    assert list(schedule.captures(3 * CYCLE)) == [10, 30, 50]
    assert {schedule.lr(step) for step in (10, 30, 50)} == {LOW}
    assert {schedule.lr(step) for step in (20, 40, 60)} == {HIGH}


@given(
    high=st.floats(1e-6, 10),
    ratio=st.floats(0, 1),
    half_cycle=st.integers(1, 5000),
    data=st.data(),
)
def test_cycles_agree_with_exact_fractions_for_any_rates_and_length(high, ratio, half_cycle, data):
    low, c = high * ratio, 2 * half_cycle
    step = data.draw(st.integers(1, 3 * c))
    t = Fraction((step - 1) % c + 1, c)
    a1, a2 = Fraction(high), Fraction(low)
    sawtooth = Sawtooth(lr_max=high, lr_min=low, cycle_steps=c)
    triangular = Triangular(lr_max=high, lr_min=low, cycle_steps=c)
    assert sawtooth.lr(step) == pytest.approx(float((1 - t) * a1 + t * a2), rel=1e-12)
    expected = a1 + (a2 - a1) * min(2 * t, 2 - 2 * t)
    assert triangular.lr(step) == pytest.approx(float(expected), rel=1e-12)


def test_constant_is_captured_at_the_end_of_each_epoch():
    schedule = Constant(lr_max=HIGH, cycle_steps=CYCLE)
    assert three_cycles(schedule) == [HIGH] * 60
    assert list(schedule.captures(60)) == [20, 40, 60]


def test_shake_shake_repeats_the_last_hundred_of_1800_epochs_of_its_cosine():
    schedule = ShakeShake(cycle_steps=100 * 3, steps_per_epoch=3)
    expected = [
        0.1 * (1 + math.cos(math.pi * (1600 + epoch % 100) / 1800))
        for epoch in range(300)
        for _ in range(3)
    ]
    found = [schedule.lr(step) for step in range(1, 901)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert round(schedule.lr(1), 6) == 0.006031
    assert round(schedule.lr(300), 6) == 0.001550
    assert list(schedule.captures(900)) == [300, 600, 900]


def test_anneal_is_flat_then_linear_to_a_hundredth_then_flat():
    schedule = Anneal(lr_max=0.1, budget_steps=200)
    assert [schedule.lr(step) for step in (1, 50, 100)] == [0.1, 0.1, 0.1]
    line = [0.1 + (0.001 - 0.1) * k / 80 for k in range(81)]
    found = [schedule.lr(step) for step in range(100, 181)]
    assert found == pytest.approx(line, rel=1e-12)
    assert {round(schedule.lr(step), 15) for step in range(180, 260)} == {0.001}


def test_anneal_stopped_at_three_quarters_of_its_budget_stands_at_0_381():
    schedule = Anneal(lr_max=1.0, budget_steps=400)
    assert round(schedule.lr(300), 3) == 0.381
    assert list(schedule.captures(300)) == [300]


def test_cosine_is_torchs_cosine_one_step_later_and_ends_at_exactly_lr_min():
    schedule = Cosine(lr_max=HIGH, lr_min=LOW, budget_steps=50)
    expected = [LOW + (HIGH - LOW) * math.cos(math.pi * k / 100) ** 2 for k in range(1, 51)]
    found = [schedule.lr(step) for step in range(1, 51)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert schedule.lr(50) == LOW
    assert schedule.lr(60) == LOW
    assert Cosine(lr_max=HIGH, budget_steps=50).lr(50) == 0


def test_multistep_drops_once_a_milestone_is_done():
    schedule = MultiStep(lr_max=1.0, milestone_steps=(3, 5), gamma=0.1)
    found = [schedule.lr(step) for step in range(1, 8)]
    assert found == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("whole", "rest"),
    [
        (Anneal(lr_max=1, budget_steps=40), Anneal(lr_max=1, budget_steps=40, start_steps=30)),
        (Cosine(lr_max=1, budget_steps=40), Cosine(lr_max=1, budget_steps=40, start_steps=30)),
        (
            MultiStep(lr_max=1, milestone_steps=(35,), gamma=0.5),
            MultiStep(lr_max=1, milestone_steps=(35,), gamma=0.5, start_steps=30),
        ),
    ],
    ids=["anneal", "cosine", "multistep"],
)
def test_a_run_that_begins_inside_its_budget_goes_on_where_the_other_stopped(whole, rest):
    assert [rest.lr(step) for step in range(1, 11)] == [whole.lr(step) for step in range(31, 41)]


def test_cycles_are_counted_from_one_and_conventional_schedules_have_none():
    schedule = Sawtooth(lr_max=HIGH, lr_min=LOW, cycle_steps=3)
    assert [schedule.cycle(step) for step in range(1, 8)] == [1, 1, 1, 2, 2, 2, 3]
    assert Anneal(lr_max=HIGH, budget_steps=7).cycle(5) is None


@pytest.mark.parametrize(
    "schedule",
    [
        Sawtooth(lr_max=HIGH, lr_min=LOW, cycle_steps=CYCLE),
        Triangular(lr_max=HIGH, lr_min=LOW, cycle_steps=CYCLE),
        Constant(lr_max=HIGH, cycle_steps=CYCLE),
    ],
)
def test_a_cycle_that_the_run_does_not_complete_is_not_captured(schedule):
    # 55 steps pass the middle of the third cycle.
    assert len(schedule.captures(55)) == 2
    assert schedule.incomplete_steps(55) == 15
    assert schedule.incomplete_steps(60) == 0
    assert len(schedule.captures(15)) == 0


def test_conventional_schedule_is_captured_at_the_end_or_every_so_many_steps():
    assert list(Cosine(lr_max=1, budget_steps=9).captures(7)) == [7]
    assert list(Cosine(lr_max=1, budget_steps=9, cycle_steps=3).captures(7)) == [3, 6]


def test_metadata_names_the_schedule_and_its_constants():
    schedule = Sawtooth(lr_max=HIGH, lr_min=LOW, cycle_steps=CYCLE)
    assert schedule.to_dict() == {
        "name": "sawtooth",
        "lr_max": HIGH,
        "lr_min": LOW,
        "cycle_steps": CYCLE,
    }


def test_schedules_import_without_torch():
    code = (
        "import sys, swa_tools.training.schedules, swa_tools.training.schedule_options;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
