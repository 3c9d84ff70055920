"""All pictures: they can be drawn from any data, wide and narrow, and say what they show."""

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from swa_tools.report.comparison_figure import comparison_picture
from swa_tools.report.contents import PICTURES
from swa_tools.report.numbers import read_numbers
from swa_tools.report.plane_figure import contour_levels
from swa_tools.report.runs import load_runs
from swa_tools.report.score_figures import (
    N_BINS,
    bn_ablation_picture,
    calibration_error,
    confidence_bins,
    reliability_picture,
    sweep_picture,
)


@pytest.fixture
def picture_of(tmp_path, write_surfaces, write_run):
    """Make a picture by its name."""
    random = np.random.default_rng(0)

    def call(name):
        if name in PICTURES:
            write_surfaces(tmp_path)
            return PICTURES[name](read_numbers(tmp_path / f"{name}.npz"))
        if name == "comparison":
            folders = [write_run(f"a{seed}", seed=seed, average=65.0 + seed) for seed in range(3)]
            return comparison_picture(load_runs([*folders, write_run("b", lr_max=1.0)]))
        if name == "sweep":
            return sweep_picture({"first n": [(1, 60.0, 1000), (2, 64.5, 1000)]})
        if name == "ablation":
            return bn_ablation_picture({"population": [(256, 60.0), (1000, 62)]}, {"stale": 50.0})
        logits = random.standard_normal((50, 4))
        return reliability_picture({"swa": (logits, random.integers(0, 4, 50))})

    return call


NAMES = [*PICTURES, "comparison", "sweep", "ablation", "reliability"]


@pytest.mark.parametrize("name", NAMES)
def test_picture_is_drawn_wide_and_narrow_light_and_dark(picture_of, name):
    picture = picture_of(name)
    for theme, size in (("light", picture.size), ("dark", picture.narrow_size)):
        image = Image.open(io.BytesIO(picture.render("png", theme=theme, size=size, dpi=50)))
        assert image.size == pytest.approx((50 * size[0], 50 * size[1]), abs=1)
        assert len(image.convert("RGB").getcolors(10**6)) > 10


@pytest.mark.parametrize("name", NAMES)
def test_message_is_a_sentence_with_numbers(picture_of, name):
    message = picture_of(name).message
    assert message.endswith(".")
    assert any(character.isdigit() for character in message)
    assert "nan" not in message


@pytest.mark.parametrize("name", ["plane", "rays", "segment"])
def test_points_without_a_value_leave_gaps(tmp_path, write_surfaces, name):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / f"{name}.npz")
    for array in ("test_error", "train_objective"):
        numbers.arrays[array][..., -1] = np.nan
    assert PICTURES[name](numbers).render("png", dpi=40).startswith(b"\x89PNG")


def test_a_flat_plane_is_drawn(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    numbers.arrays["test_error"][:] = 100 / 3
    assert PICTURES["plane"](numbers).render("png", dpi=40).startswith(b"\x89PNG")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_contour_levels_crowd_around_the_lowest_value(scale):
    x = np.linspace(-1, 1, 21)
    bowl = 3 * scale + scale * (x[:, None] ** 2 + x[None, :] ** 2)
    levels = contour_levels(bowl)
    assert np.all(np.diff(levels) > 0)
    assert levels[0] > bowl.min()
    assert levels[-1] < bowl.max()
    assert np.all(np.diff(levels, 2) > -1e-9 * scale)


@given(
    low=st.floats(-1e3, 1e3),
    rises=st.lists(st.floats(0, 100), min_size=1, max_size=30),
)
@example(low=-1e-05, rises=[1e-05])
def test_contour_levels_ascend_from_above_the_lowest_value(low, rises):
    values = low + np.array([0.0, *rises])
    levels = contour_levels(values)
    assert np.all(np.diff(levels) > 0)
    assert levels[0] > values.min()


def test_contour_levels_of_a_flat_surface_exist():
    assert np.all(np.diff(contour_levels(np.full((3, 3), 7.0))) > 0)


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
