import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swa_tools.errors import ModelError
from swa_tools.training.network import Stepper, step_seed
from swa_tools.training.optimizer import build_optimizer
from swa_tools.training.options import FinetuneOptions, OptimizerOptions


def make_network(*, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * 16, 5)
    )


def make_stepper(module, *, amp=None, rank=0, **options):
    run = FinetuneOptions(output=Path("run"), **options)
    return Stepper(
        model=module,
        optimizer=build_optimizer(module, run.optimizer),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        amp=amp,
        options=run,
        rank=rank,
    )


def batches(n):
    random = torch.Generator().manual_seed(1)
    for _ in range(n):
        images = torch.randn((6, 3, 6, 6), generator=random)
        yield images, torch.randint(5, (6,), generator=random)


RATES = (0.1, 0.05, 0.01, 0.1, 0.05, 0.01)


def test_steps_are_sgd_with_momentum_that_is_kept_when_the_rate_jumps():
    module, momentum, decay = make_network(), 0.9, 1e-2
    reference = copy.deepcopy(module)
    buffers = [torch.zeros_like(p) for p in reference.parameters()]
    stepper = make_stepper(module, optimizer=OptimizerOptions(weight_decay=decay))
    for number, (images, targets) in enumerate(batches(6), start=1):
        lr = RATES[number - 1]
        loss = stepper.take(images, targets, step=number, lr=lr)
        expected = F.cross_entropy(reference(images), targets)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        gradients = torch.autograd.grad(expected, list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient, buffer in zip(
                reference.parameters(), gradients, buffers, strict=True
            ):
                buffer.mul_(momentum).add_(gradient + decay * parameter)
                parameter -= lr * buffer
    for found, parameter in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, parameter, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pieces", [2, 3, 4, 9])
def test_a_batch_in_any_number_of_pieces_gives_the_same_step_and_loss(pieces):
    whole, cut = make_network(), make_network()
    images, targets = next(batches(1))
    loss = make_stepper(whole).take(images, targets, step=1, lr=0.1)
    same = make_stepper(cut, accumulate=pieces).take(images, targets, step=1, lr=0.1)
    assert same.item() == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_dropout_depends_on_seed_step_and_rank_and_on_nothing_before():
    images, targets = next(batches(1))

    def loss(*, before, **changes):
        torch.manual_seed(before)
        stepper = make_stepper(make_network(dropout=0.5), seed=changes.pop("seed", 0), **changes)
        return stepper.take(images, targets, step=7, lr=0.0).item()

    first = loss(before=1)
    assert loss(before=2) == first
    assert loss(before=1, seed=1) != first
    assert loss(before=1, rank=1) != first
    seeds = {step_seed(0, step=step, rank=rank) for step in range(100) for rank in range(8)}
    assert len(seeds) == 800


def test_gradients_are_clipped_to_their_global_norm():
    module = make_network()
    before = [p.detach().clone() for p in module.parameters()]
    options = OptimizerOptions(clip_grad=0.01, momentum=0.0, weight_decay=0.0)
    images, targets = next(batches(1))
    make_stepper(module, optimizer=options).take(images, targets, step=1, lr=1.0)
    moved = [(p - b).square().sum() for p, b in zip(module.parameters(), before, strict=True)]
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_labels_are_smoothed():
    images, targets = next(batches(1))
    module = make_network()
    expected = F.cross_entropy(module(images), targets, label_smoothing=0.2)
    loss = make_stepper(module, label_smoothing=0.2).take(images, targets, step=1, lr=0.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_mixed_precision_keeps_weights_in_float32():
    module = make_network()
    images, targets = next(batches(1))
    loss = make_stepper(module, amp=torch.bfloat16).take(images, targets, step=1, lr=0.1)
    exact = make_stepper(make_network()).take(images, targets, step=1, lr=0.1)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert loss.item() != exact.item()


def test_a_model_with_several_outputs_is_refused_with_a_hint():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, images):
            return self.layer(images.mean().view(1)), images

    images, targets = next(batches(1))
    with pytest.raises(ModelError, match="aux_logits"):
        make_stepper(Two()).take(images, targets, step=1, lr=0.1)
