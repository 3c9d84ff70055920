"""All pictures: they can be drawn from any data, wide and narrow, and say what they show."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from swa_tools.measurements import read_numbers
from swa_tools.report.contents import PICTURES
from swa_tools.report.figures.bn_ablation import bn_ablation_picture
from swa_tools.report.figures.comparison import comparison_picture
from swa_tools.report.figures.reliability import reliability_picture
from swa_tools.report.figures.sweep import sweep_picture
from swa_tools.report.runs import load_runs


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


@pytest.mark.parametrize("name", ["plane", "rays", "segment"])
def test_picture_without_recompute_says_that_it_is_wrong(tmp_path, write_surfaces, name, figure_of):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / f"{name}.npz")
    for n_samples, has_batchnorm, is_wrong in (
        (0, True, True),
        (0, False, False),
        (9, True, False),
    ):
        numbers.description.update(bn_samples=n_samples, has_batchnorm=has_batchnorm)
        picture = PICTURES[name](numbers)
        texts = [picture.title, picture.message, figure_of(picture).get_supxlabel()]
        assert ["BatchNorm not recomputed" in text for text in texts] == 3 * [is_wrong]


@pytest.mark.parametrize("name", NAMES)
def test_a_size_too_small_gives_no_warning(picture_of, name):
    picture = picture_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert picture.render("png", size=(0.5, 0.5), dpi=60).startswith(b"\x89PNG")
