import pytest
import torch

from swa_tools.training.lr_scheduler import ScheduleLR
from swa_tools.training.schedule_options import ScheduleOptions, build_schedule
from swa_tools.training.schedules import SCHEDULES, Sawtooth


def make_optimizer(**second_group):
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    return torch.optim.SGD(
        [{"params": [first]}, {"params": [second], **second_group}], lr=123.0, momentum=0.9
    )


def run(optimizer, scheduler, n_steps):
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_rate_of_every_step_of_three_cycles_is_the_formulas(name):
    milestones = (2.0,) if name == "multistep" else None
    cycle_epochs = 1 if name in ("sawtooth", "triangular", "shake-shake") else None
    schedule = build_schedule(
        ScheduleOptions(
            schedule=name, lr_max=0.05, milestones=milestones, cycle_epochs=cycle_epochs
        ),
        steps_per_epoch=10,
        n_epochs=3,
    )
    optimizer = make_optimizer()
    found = run(optimizer, ScheduleLR(optimizer, schedule), 30)
    assert found == [schedule.lr(step) for step in range(1, 31)]


def test_a_group_with_lr_scale_gets_that_multiple():
    optimizer = make_optimizer(lr_scale=0.1)
    scheduler = ScheduleLR(optimizer, Sawtooth(lr_max=1.0, lr_min=0.0, cycle_steps=4))
    assert scheduler.get_last_lr() == pytest.approx([0.75, 0.075])


def test_position_survives_saving_and_loading():
    schedule = Sawtooth(lr_max=1.0, lr_min=0.0, cycle_steps=7)
    optimizer = make_optimizer()
    scheduler = ScheduleLR(optimizer, schedule)
    run(optimizer, scheduler, 5)
    state = scheduler.state_dict()
    assert "schedule" not in state

    resumed = make_optimizer()
    other = ScheduleLR(resumed, schedule)
    other.load_state_dict(state)
    resumed.load_state_dict(optimizer.state_dict())
    assert run(resumed, other, 9) == [schedule.lr(step) for step in range(6, 15)]
