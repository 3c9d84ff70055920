import pytest
import torch
from torch import nn

from swa_tools.training.optimizer import build_optimizer, load_optimizer
from swa_tools.training.optimizer_options import OptimizerOptions


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
