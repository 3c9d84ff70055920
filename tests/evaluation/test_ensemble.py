import numpy as np
import torch
from torch import nn

from swa_tools.data import Batch
from swa_tools.evaluation import evaluate


def smooth_network():
    """A network with BatchNorm, twice differentiable in its weights, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.Tanh(),
        nn.Linear(16, 5),
    )
    return model.double()


def displaced(deltas, s):
    """The network with the weights w̄ + s·Δ; the BatchNorm statistics stay."""
    model = smooth_network()
    with torch.no_grad():
        for parameter, delta in zip(model.parameters(), deltas, strict=True):
            parameter += s * delta
    return model


def slope(scales, distances):
    return np.polyfit(np.log(scales), np.log(distances), 1)[0]


def test_average_and_ensemble_agree_to_second_order_and_members_to_first():
    """Section 3.5: f(w̄) − mean of f(w̄ + Δ_i) = O(‖Δ‖²), f(w_i) − f(w_j) = O(‖Δ‖)."""
    torch.manual_seed(1)
    shapes = [parameter.shape for parameter in smooth_network().parameters()]
    deltas = [[torch.randn(shape, dtype=torch.float64) for shape in shapes] for _ in range(4)]
    mean = [sum(parts) / 4 for parts in zip(*deltas, strict=True)]
    deltas = [[part - m for part, m in zip(delta, mean, strict=True)] for delta in deltas]
    images = torch.randn(40, 3, 4, 4, dtype=torch.float64)
    batch = Batch(images=images, targets=torch.arange(40) % 5, indices=torch.arange(40))
    scales = 2.0 ** -np.arange(6, 12)
    to_ensemble, between_members = [], []
    for s in scales:
        models = {f"w{i}": displaced(delta, s) for i, delta in enumerate(deltas)}
        members = list(models)
        models["average"] = displaced(mean, 0.0)
        found = evaluate(models, [batch], ensemble=members).agreements
        distances = {(one.first, one.second): one.l2 for one in found}
        to_ensemble.append(distances["average", "ensemble"])
        between_members.append(distances["w0", "w1"])
    assert abs(slope(scales, to_ensemble) - 2) < 0.02
    assert abs(slope(scales, between_members) - 1) < 0.02
