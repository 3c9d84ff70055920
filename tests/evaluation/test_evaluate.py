import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from swa_tools.data import Batch
from swa_tools.errors import DataError, ModelError, SwaToolsError
from swa_tools.evaluation import evaluate, score_predictors
from swa_tools.statistics import mcnemar

N_CLASSES = 7


def images_and_targets(n=53, *, n_classes=N_CLASSES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 4, 4, generator=generator)
    return images, torch.randint(n_classes, (n,), generator=generator)


def batches_of(images, targets, *, batch_size=16, rank=0, world_size=1):
    for number, indices in enumerate(torch.arange(len(images)).split(batch_size)):
        if number % world_size == rank:
            yield Batch(images=images[indices], targets=targets[indices], indices=indices)


def classifier(seed, *, n_classes=N_CLASSES, scale=3.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, n_classes))
    with torch.no_grad():
        model[2].weight.mul_(scale)
    return model.train()


def reference_ece(probabilities, targets, n_bins=15):
    """Guo et al. 2017, equation 3, in a plain loop."""
    confidence, predictions = probabilities.max(1), probabilities.argmax(1)
    total = 0.0
    for b in range(n_bins):
        chosen = (confidence > b / n_bins) & (confidence <= (b + 1) / n_bins)
        if chosen.any():
            accuracy = (predictions[chosen] == targets[chosen]).mean()
            total += chosen.mean() * abs(accuracy - confidence[chosen].mean())
    return 100 * total


def logits_of(model, images):
    model.eval()
    with torch.no_grad():
        logits = model(images)
    model.train()
    return logits


def test_scores_are_those_of_a_plain_loop():
    images, targets = images_and_targets()
    models = {"a": classifier(1), "b": classifier(2, scale=0.1)}
    result = evaluate(models, batches_of(images, targets))
    assert list(result.scores) == ["a", "b"]
    for name, model in models.items():
        logits = logits_of(model, images)
        probabilities = logits.double().softmax(1).numpy()
        score = result.scores[name]
        assert score.n_samples == 53
        assert score.n_correct == (logits.argmax(1) == targets).sum()
        assert score.top1 == 100 * score.n_correct / 53
        top5 = (logits.topk(5, 1).indices == targets[:, None]).any(1)
        assert score.top5 == pytest.approx(100 * top5.double().mean())
        assert score.nll == pytest.approx(F.cross_entropy(logits.double(), targets).item())
        assert score.ece == pytest.approx(reference_ece(probabilities, targets.numpy()))
        np.testing.assert_array_equal(result.predictions[name], logits.argmax(1))
    np.testing.assert_array_equal(result.targets, targets)
    np.testing.assert_array_equal(result.indices, np.arange(53))
    assert result.ensemble is None
    assert result.agreements == ()


def test_modes_are_restored_and_dropout_is_off():
    images, targets = images_and_targets()
    model = classifier(0)
    model[2].eval()
    first = evaluate({"a": model}, batches_of(images, targets)).scores["a"]
    assert [part.training for part in model.modules()] == [True, True, True, False]
    assert evaluate({"a": model}, batches_of(images, targets)).scores["a"] == first

    class Failing(nn.Module):
        def forward(self, images):
            raise RuntimeError

    failing = nn.Sequential(Failing()).train()
    with pytest.raises(RuntimeError):
        evaluate({"a": failing}, batches_of(images, targets))
    assert failing.training
    assert failing[0].training


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(0, 3))
def test_counts_do_not_depend_on_the_batch_size(batch_size, seed):
    images, targets = images_and_targets(seed=seed)
    models = {"a": classifier(1), "b": classifier(2)}
    expected = evaluate(models, batches_of(images, targets, batch_size=53), ensemble=True)
    found = evaluate(models, batches_of(images, targets, batch_size=batch_size), ensemble=True)
    for name, score in found.scores.items():
        assert score.n_correct == expected.scores[name].n_correct
        assert score.top5 == expected.scores[name].top5
        assert score.nll == pytest.approx(expected.scores[name].nll, rel=1e-6)
        assert score.ece == pytest.approx(expected.scores[name].ece, rel=1e-4)
    assert found.ensemble.n_correct == expected.ensemble.n_correct


def test_batches_may_come_in_any_order():
    images, targets = images_and_targets()
    model = {"a": classifier(1)}
    expected = evaluate(model, batches_of(images, targets))
    found = evaluate(model, reversed(list(batches_of(images, targets))))
    np.testing.assert_array_equal(found.predictions["a"], expected.predictions["a"])
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_top5_is_left_out_where_there_are_five_outputs():
    images, targets = images_and_targets(n_classes=5)
    model = classifier(0, n_classes=5)
    assert evaluate({"a": model}, batches_of(images, targets)).scores["a"].top5 is None


def test_ensemble_is_the_mean_of_the_softmax():
    images, targets = images_and_targets()
    models = {name: classifier(seed) for seed, name in enumerate("abcd")}
    result = evaluate(models, batches_of(images, targets), ensemble=["a", "b", "c"])
    probabilities = {
        name: logits_of(model, images).double().softmax(1) for name, model in models.items()
    }
    mean = (probabilities["a"] + probabilities["b"] + probabilities["c"]) / 3
    assert result.ensemble.n_correct == (mean.argmax(1) == targets).sum()
    assert result.ensemble.nll == pytest.approx(F.nll_loss(mean.log(), targets).item())
    assert result.ensemble.ece == pytest.approx(reference_ece(mean.numpy(), targets.numpy()))
    np.testing.assert_array_equal(result.predictions["ensemble"], mean.argmax(1))
    pairs = [(one.first, one.second) for one in result.agreements]
    assert pairs == [("a", "b"), ("b", "c"), ("d", "ensemble")]
    for one in result.agreements:
        first = probabilities[one.first]
        second = mean if one.second == "ensemble" else probabilities[one.second]
        assert one.l2 == pytest.approx((first - second).norm(dim=1).mean().item())
        same = (first.argmax(1) == second.argmax(1)).double().mean().item()
        assert one.same_label == pytest.approx(100 * same)


def test_accuracy_by_class_and_difference_of_two_models():
    images, targets = images_and_targets()
    targets[targets == 3] = 2
    models = {"a": classifier(1), "b": classifier(2)}
    result = evaluate(models, batches_of(images, targets))
    assert 3 not in result.by_class("a")
    for target, (n_correct, n) in result.by_class("a").items():
        of_class = targets == target
        assert n == of_class.sum()
        assert n_correct == (logits_of(models["a"], images)[of_class].argmax(1) == target).sum()
    right = {name: result.is_correct(name) for name in models}
    only_a = int((right["a"] & ~right["b"]).sum())
    only_b = int((right["b"] & ~right["a"]).sum())
    assert result.p_value("a", "b") == mcnemar(only_a, only_b)
    assert result.p_value("a", "a") == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_in_logits_names_the_model(value):
    images, targets = images_and_targets()
    broken = classifier(2)
    with torch.no_grad():
        broken[2].bias[0] = value
    with pytest.raises(ModelError, match="cycle-002: its logits contain NaN or Inf"):
        evaluate({"cycle-001": classifier(1), "cycle-002": broken}, batches_of(images, targets))


def test_what_is_no_classifier_is_told_so():
    images, targets = images_and_targets()
    with pytest.raises(ModelError, match=r"expected logits .* found \(16, 3, 4, 4\)"):
        evaluate({"a": nn.Identity()}, batches_of(images, targets))


def test_a_gpu_that_is_out_of_memory_is_one_line():
    class TooLarge(nn.Module):
        def forward(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    images, targets = images_and_targets()
    with pytest.raises(SwaToolsError, match="out of memory; try a smaller --batch-size"):
        evaluate({"a": TooLarge()}, batches_of(images, targets))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_counts_as_the_cpu_does():
    images, targets = images_and_targets()
    models = {name: classifier(seed) for seed, name in enumerate("abc")}
    expected = evaluate(models, batches_of(images, targets), ensemble=True)
    on_gpu = {name: model.cuda() for name, model in models.items()}
    found = evaluate(on_gpu, batches_of(images.cuda(), targets.cuda()), ensemble=True)
    for name, score in expected.scores.items():
        assert found.scores[name].n_correct == score.n_correct
        assert found.scores[name].nll == pytest.approx(score.nll, rel=1e-3)
    assert found.ensemble.n_correct == expected.ensemble.n_correct


def test_labels_that_the_model_does_not_have_are_named():
    images, targets = images_and_targets(n_classes=9)
    with pytest.raises(DataError, match="a: an image has label 8, but the model has only 7"):
        evaluate({"a": classifier(0)}, batches_of(images, targets))


def test_no_images_and_images_that_come_twice_are_errors():
    images, targets = images_and_targets()
    with pytest.raises(DataError, match="no images"):
        evaluate({"a": classifier(0)}, [])
    batches = list(batches_of(images, targets))
    with pytest.raises(DataError, match="16 images came more than once, the first at position 0"):
        evaluate({"a": classifier(0)}, [*batches, batches[0]])


def test_predictors_are_called_once_per_batch_and_progress_is_told():
    images, targets = images_and_targets(20)
    calls, progress = [], []

    def predict(batch):
        calls.append(len(batch.targets))
        return F.one_hot(batch.targets, N_CLASSES).bfloat16()

    batches = batches_of(images, targets, batch_size=8)
    result = score_predictors({"right": predict}, batches, advance=progress.append)
    assert result.scores["right"].top1 == 100
    assert calls == progress == [8, 8, 4]


def test_mixed_precision_changes_little():
    images, targets = images_and_targets()
    full = evaluate({"a": classifier(1)}, batches_of(images, targets)).scores["a"]
    amp = evaluate({"a": classifier(1)}, batches_of(images, targets), amp=torch.bfloat16)
    assert amp.scores["a"].nll == pytest.approx(full.nll, rel=0.05)


def evaluate_on_ranks(context):
    images, targets = images_and_targets()
    models = {name: classifier(seed) for seed, name in enumerate("abc")}
    mine = batches_of(
        images, targets, batch_size=8, rank=context.rank, world_size=context.world_size
    )
    result = evaluate(models, mine, context=context, ensemble=["a", "b"])
    all_on_one = batches_of(images, targets, batch_size=53, rank=context.rank, world_size=2)
    uneven = evaluate(models, all_on_one, context=context)
    return {
        "n_correct": [score.n_correct for score in result.scores.values()],
        "numbers": [
            [score.top1, score.top5, score.nll, score.ece]
            for score in (*result.scores.values(), result.ensemble)
        ],
        "agreements": [[one.l2, one.same_label] for one in result.agreements],
        "predictions": result.predictions["c"].tolist(),
        "uneven": [score.n_correct for score in uneven.scores.values()],
    }


def test_two_ranks_count_as_one_does(on_ranks):
    images, targets = images_and_targets()
    models = {name: classifier(seed) for seed, name in enumerate("abc")}
    expected = evaluate(models, batches_of(images, targets), ensemble=["a", "b"])
    for found in on_ranks(evaluate_on_ranks):
        n_correct = [score.n_correct for score in expected.scores.values()]
        assert found["n_correct"] == found["uneven"] == n_correct
        assert found["predictions"] == expected.predictions["c"].tolist()
        np.testing.assert_allclose(
            found["numbers"],
            [
                [score.top1, score.top5, score.nll, score.ece]
                for score in (*expected.scores.values(), expected.ensemble)
            ],
            rtol=1e-6,
        )
        np.testing.assert_allclose(
            found["agreements"],
            [[one.l2, one.same_label] for one in expected.agreements],
            rtol=1e-6,
        )
