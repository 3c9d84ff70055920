import torch
from torch import nn

from swa_tools.training.ema import ExponentialAverage


def test_average_follows_the_formula_for_weights_and_running_statistics():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = ExponentialAverage(module, decay=0.9)
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for _ in range(5):
        with torch.no_grad():
            module(torch.randn(8, 3))
            for parameter in module.parameters():
                parameter += torch.randn_like(parameter)
        average.update()
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * tensor
            else:
                expected[name] = tensor.clone()
    for name, tensor in average.module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_weights_that_are_used_twice_are_averaged_once():
    layer = nn.Linear(2, 2)
    module = nn.Sequential(layer, layer)
    average = ExponentialAverage(module, decay=0.5)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update()
    torch.testing.assert_close(average.module[1].weight.detach(), before + 0.5)


def test_the_average_needs_no_gradients_and_stays_in_evaluation_mode():
    average = ExponentialAverage(nn.Linear(2, 2).train(), decay=0.5)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
