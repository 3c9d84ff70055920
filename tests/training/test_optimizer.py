import pytest
import torch
from torch import nn

from swa_tools.training.optimizer import ScheduleLR, build_optimizer, load_optimizer
from swa_tools.training.options import OptimizerOptions
from swa_tools.training.schedule_options import ScheduleOptions, build_schedule
from swa_tools.training.schedules import SCHEDULES, Sawtooth


def make_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_all_weights_are_decayed_alike_as_in_the_paper():
    (group,) = build_optimizer(make_network(), OptimizerOptions()).param_groups
    assert group["weight_decay"] == 1e-4
    assert group["momentum"] == 0.9
    assert not group["nesterov"]
    assert len(group["params"]) == 6


def test_norms_and_biases_are_spared_on_request():
    options = OptimizerOptions(no_decay_norm_bias=True, weight_decay=0.1)
    matrices, vectors = build_optimizer(make_network(), options).param_groups
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert {p.ndim for p in vectors["params"]} == {1}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


def test_frozen_weights_are_left_out():
    module = make_network()
    module[0].requires_grad_(False)
    (group,) = build_optimizer(module, OptimizerOptions()).param_groups
    assert len(group["params"]) == 4


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (OptimizerOptions(nesterov=True), torch.optim.SGD),
        (OptimizerOptions(optimizer="adamw"), torch.optim.AdamW),
    ],
)
def test_state_comes_back_in_the_layout_of_the_weights(options, kind):
    module = make_network().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(module, options)
    assert isinstance(optimizer, kind)
    module(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for buffers in state["state"].values():
        for name, value in buffers.items():
            buffers[name] = value.contiguous()

    other = build_optimizer(module, options)
    load_optimizer(other, state)
    kernel = module[0].weight
    for name, value in other.state[kernel].items():
        torch.testing.assert_close(value, optimizer.state[kernel][name])
        if value.ndim == 4:
            assert value.stride() == kernel.stride()


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


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_that_overflow_leave_the_fused_optimizer_as_the_plain_one(monkeypatch, nesterov):
    """In the first, torch's fused SGD makes momentum buffers and does not fill them."""
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t, **kw: empty_like(t, **kw).fill_(torch.nan))
    module, plain_module = make_network(), make_network()
    plain_module.load_state_dict(module.state_dict())
    fused = build_optimizer(module, OptimizerOptions(nesterov=nesterov))
    fused.param_groups[0]["lr"] = 0.1
    plain = torch.optim.SGD(
        plain_module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=nesterov
    )
    scalers = [torch.amp.GradScaler("cpu", init_scale=4.0) for _ in range(2)]
    for step in range(5):
        torch.manual_seed(step)
        images = torch.randn(4, 3, 3, 3) * (torch.inf if step < 2 else 1)
        for one, optimizer, scaler in zip(
            (module, plain_module), (fused, plain), scalers, strict=True
        ):
            optimizer.zero_grad()
            one.eval()
            scaler.scale(one(images).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, plain_module.state_dict()[name])
        assert torch.isfinite(tensor).all()
