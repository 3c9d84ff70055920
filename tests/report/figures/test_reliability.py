import numpy as np
import pytest

from swa_tools.report.figures.reliability import (
    N_BINS,
    calibration_error,
    confidence_bins,
    reliability_picture,
)


def test_bins_of_few_images_have_small_markers(figure_of):
    logits = np.concatenate([np.tile([9.0, 0], (99, 1)), [[0.1, 0]]])
    figure = figure_of(reliability_picture({"one": (logits, np.zeros(100, np.int64))}))
    (markers,) = figure.axes[0].collections
    small, large = markers.get_sizes()
    assert small < large / 10
    assert not markers.get_clip_on()


def test_calibration_error_is_that_of_the_evaluation():
    import torch

    from swa_tools.distributed import single_process
    from swa_tools.evaluation.metrics import Tally

    random = np.random.default_rng(1)
    logits, targets = 3 * random.standard_normal((400, 7)), random.integers(0, 7, 400)
    tally = Tally(device=torch.device("cpu"))
    outputs = torch.from_numpy(logits)
    labels = torch.from_numpy(targets)
    predictions = tally.add(outputs, outputs.log_softmax(dim=1), labels)
    score = tally.score(
        n_samples=400,
        n_correct=int((predictions == labels).sum()),
        context=single_process("cpu"),
    )
    found = calibration_error(*confidence_bins(logits, targets))
    assert found == pytest.approx(score.ece, abs=1e-9)


def test_confidence_bins_hold_every_image_once():
    random = np.random.default_rng(2)
    confidence, accuracy, share = confidence_bins(
        5 * random.standard_normal((300, 3)), random.integers(0, 3, 300)
    )
    assert share.sum() == pytest.approx(1)
    assert len(confidence) == len(accuracy) <= N_BINS
    assert np.all(np.diff(confidence) > 0)
