import pytest

from swa_tools.errors import TrainingError
from swa_tools.training.schedule_options import ScheduleOptions, build_schedule, steps_of
from swa_tools.training.schedules import SCHEDULES, Anneal, Sawtooth, ShakeShake, Triangular


def build(name="sawtooth", *, steps_per_epoch=100, n_epochs=10, **options):
    return build_schedule(
        ScheduleOptions(schedule=name, **options),
        steps_per_epoch=steps_per_epoch,
        n_epochs=n_epochs,
    )


def test_default_is_the_papers_imagenet_cycle_of_one_epoch():
    assert build() == Sawtooth(lr_max=0.001, lr_min=0.00001, cycle_steps=100)


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1, 7), (0.5, 4), (0.1, 1), (1.5, 11), (2, 14), (0.07, 0)]
)
def test_epochs_are_rounded_to_whole_steps(epochs, steps):
    assert steps_of(epochs, 7) == steps


def test_triangular_cycle_is_rounded_to_an_even_number_of_steps():
    assert build("triangular", steps_per_epoch=7).cycle_steps == 8
    assert build("triangular", steps_per_epoch=7, cycle_epochs=2).cycle_steps == 14
    assert isinstance(build("triangular", cycle_steps=6), Triangular)


def test_shake_shake_takes_the_papers_constants_and_others():
    assert build("shake-shake", steps_per_epoch=3) == ShakeShake(cycle_steps=300, steps_per_epoch=3)
    other = build(
        "shake-shake",
        steps_per_epoch=3,
        lr_max=0.1,
        start_epoch=40,
        budget_epochs=50,
        cycle_epochs=10,
    )
    assert (other.lr_max, other.start_epoch, other.budget_epochs) == (0.1, 40, 50)
    assert other.cycle_steps == 30


def test_budget_ends_with_the_run_unless_it_is_given():
    assert build("anneal", lr_max=0.1).budget_steps == 1000
    assert build("anneal", lr_max=0.1, start_epoch=15, n_epochs=5).budget_steps == 2000
    stopped_early = build("anneal", lr_max=0.1, budget_epochs=200, n_epochs=150)
    assert stopped_early == Anneal(lr_max=0.1, budget_steps=20000)


def test_the_rest_of_an_annealing_starts_inside_its_budget():
    # A run that was stopped at 15 of 20 epochs, where the rate stood at 0.08.
    rest = build("anneal", lr_max=0.21, budget_epochs=20, start_epoch=15, n_epochs=5)
    assert rest.start_steps == 1500
    assert rest.lr(1) < 0.21 * 0.38125 < rest.lr(1) + 0.001
    assert rest.lr(500) == pytest.approx(0.0021)


def test_one_single_sawtooth_over_all_epochs_is_a_cycle_as_long_as_the_run():
    control = build(cycle_epochs=10)
    assert list(control.captures(1000)) == [1000]


def test_multistep_sorts_its_milestones():
    schedule = build("multistep", milestones=(60.0, 30.0), lr_max=1)
    assert schedule.milestone_steps == (3000, 6000)
    assert schedule.gamma == 0.1


def test_every_schedule_can_be_built_and_says_its_own_name():
    for name in SCHEDULES:
        options = {"milestones": (5.0,)} if name == "multistep" else {}
        assert build(name, **options).to_dict()["name"] == name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sawtoth", {}, "--schedule sawtoth: expected one of sawtooth, triangular"),
        ("sawtooth", {"lr_max": 0.0}, "--lr-max 0: expected a number above 0"),
        ("sawtooth", {"lr_max": float("nan")}, "--lr-max nan"),
        ("sawtooth", {"lr_min": -1.0}, "--lr-min -1: expected a number of 0 or more"),
        ("sawtooth", {"gamma": 0.1}, "--gamma does not apply to --schedule sawtooth, only to mult"),
        ("sawtooth", {"budget_epochs": 5.0}, "--budget-epochs does not apply"),
        ("sawtooth", {"cycle_epochs": 1.0, "cycle_steps": 3}, "give only one of them"),
        (
            "sawtooth",
            {"cycle_epochs": 0.001},
            "epochs is too short: expected at least 1 of the 100",
        ),
        ("triangular", {"cycle_steps": 7}, "try 8"),
        ("shake-shake", {"cycle_steps": 150}, "try 200"),
        ("multistep", {}, "needs --milestones"),
        ("multistep", {"milestones": (float("nan"),)}, "--milestones nan: expected numbers above"),
        ("multistep", {"milestones": (1.0, float("inf"))}, "--milestones 1,inf: expected numbers"),
        ("multistep", {"milestones": (-1.0,)}, "--milestones -1: expected numbers above 0"),
        ("sawtooth", {"lr_max": 1e-6}, "--lr-max 1e-06 is below --lr-min 1e-05 .its default."),
        ("triangular", {"lr_max": 0.1, "lr_min": 0.2}, "--lr-max 0.1 is below --lr-min 0.2; give"),
        ("cosine", {"lr_max": 0.1, "lr_min": 0.2}, "--lr-max 0.1 is below --lr-min 0.2"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(TrainingError, match=message):
        build(name, **options)
