"""All pictures: they can be drawn from any data, wide and narrow, and say what they show."""

import io
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from swa_tools.report.comparison_figure import comparison_picture
from swa_tools.report.contents import PICTURES
from swa_tools.report.contours import N_LEVELS, contour_levels
from swa_tools.report.line_figures import series_colors
from swa_tools.report.numbers import read_numbers
from swa_tools.report.runs import load_runs
from swa_tools.report.score_figures import (
    N_BINS,
    bn_ablation_picture,
    calibration_error,
    confidence_bins,
    reliability_picture,
    sweep_picture,
)
from swa_tools.report.style import LIGHT, THEMES


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


@pytest.mark.parametrize("value", [100 / 3, np.nan, np.inf])
def test_a_plane_of_one_value_is_drawn(tmp_path, write_surfaces, value):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    for name in ("test_error", "train_objective"):
        numbers.arrays[name][:] = value
    picture = PICTURES["plane"](numbers)
    assert picture.render("png", dpi=40).startswith(b"\x89PNG")
    assert "nan" not in picture.message
    assert "inf " not in picture.message


def figure_of(picture, size=None):
    """Draw a picture and return its figure."""
    figure = Figure(figsize=size or picture.size, layout="constrained")
    FigureCanvasAgg(figure)
    picture.draw(figure, LIGHT)
    figure.draw_without_rendering()
    return figure


def test_level_labels_stay_clear_of_frame_and_markers(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    figure = figure_of(PICTURES["plane"](numbers))
    labels = 0
    for axes in figure.axes[:2]:
        frame = axes.get_window_extent()
        points = axes.transData.transform(
            [*numbers.arrays["checkpoint_xy"], *numbers.arrays["projected_xyd"][:, :2]]
        )
        for text in axes.texts:
            if text.get_text() in "ABC":
                continue
            labels += 1
            box = text.get_window_extent()
            assert frame.x0 < box.x0 < box.x1 < frame.x1
            assert frame.y0 < box.y0 < box.y1 < frame.y1
            assert not any(box.contains(*point) for point in points)
    assert labels > 2


def test_a_plane_that_is_nearly_a_line_has_room_for_its_labels(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    numbers.arrays["y"] /= 100
    numbers.arrays["checkpoint_xy"][:, 1] /= 100
    numbers.arrays["projected_xyd"][:, 1] /= 100
    picture = PICTURES["plane"](numbers)
    for size in (picture.size, picture.narrow_size):
        figure = figure_of(picture, size)
        for axes in figure.axes[:2]:
            label = axes.yaxis.label.get_window_extent()
            assert label.y0 >= 0
            assert label.y1 <= figure.bbox.height
        for bar in figure.axes[2:]:
            boxes = [tick.get_window_extent() for tick in bar.get_yticklabels()]
            assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


@pytest.mark.parametrize("name", ["plane", "rays", "segment"])
def test_picture_without_recompute_says_that_it_is_wrong(tmp_path, write_surfaces, name):
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


def test_average_and_conventional_training_keep_their_colors_among_others():
    swa = {"name": "swa.safetensors", "kind": "average"}
    one, two = ({"name": f"{name}.safetensors", "kind": "checkpoint"} for name in "ab")
    for theme in THEMES.values():
        assert series_colors([swa, one], theme) == [theme.swa, theme.sgd]
        assert series_colors([one, swa], theme) == [theme.sgd, theme.swa]
        assert series_colors([one], theme) == [theme.sgd]
        assert series_colors([one, two, swa, swa], theme) == [
            *(theme.sgd, theme.others[0], theme.swa, theme.others[1])
        ]


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_run_colors_are_told_apart_and_can_be_read(theme):
    assert theme.swa not in theme.others
    assert theme.sgd not in theme.others
    assert {theme.swa, theme.sgd, *theme.others} == set(theme.runs)
    for color in theme.runs:
        low, high = sorted((luminance(color), luminance(theme.paper)))
        assert (high + 0.05) / (low + 0.05) > 4.5
    for sight in SIGHTS.values():
        seen = [oklab(np.array(sight) @ linear(color)) for color in theme.runs]
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(a - b) > 0.05


SIGHTS = {
    "usual": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""On linear RGB (Machado et al. 2009, severity 1)."""


def linear(color):
    return (np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255) ** 2.2


def luminance(color):
    return linear(color) @ [0.2126, 0.7152, 0.0722]


def oklab(rgb):
    cones = np.cbrt(
        np.array([[0.412, 0.536, 0.051], [0.212, 0.681, 0.107], [0.088, 0.282, 0.630]])
        @ np.clip(rgb, 0, 1)
    )
    return (
        np.array([[0.210, 0.794, -0.004], [1.978, -2.429, 0.451], [0.026, 0.783, -0.809]]) @ cones
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_size_too_small_gives_no_warning(picture_of, name):
    picture = picture_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert picture.render("png", size=(0.5, 0.5), dpi=60).startswith(b"\x89PNG")


def test_axis_labels_of_a_narrow_trajectory_are_whole(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    picture = PICTURES["trajectory"](read_numbers(tmp_path / "trajectory.npz"))
    figure = figure_of(picture, picture.narrow_size)
    heights = [axes.yaxis.label.get_window_extent().height for axes in figure.axes]
    assert max(heights) < max(axes.get_window_extent().height for axes in figure.axes)


def test_message_of_rays_says_which_is_wider(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "rays.npz")
    found = {
        "1": {"mean": 2.0, "interval": [1.0, 3.0]},
        "5": {"mean": -2.0, "interval": [-3.0, -1.0]},
    }
    numbers.description["wider_than_next"] = [found]
    message = PICTURES["rays"](numbers).message
    assert "At 1 point swa is wider than cycle-001 by 2 (95 % interval 1 to 3)." in message
    assert "At 5 points cycle-001 is wider than swa by 2 (95 % interval 1 to 3)." in message
    numbers.description["wider_than_next"] = [{"1": {"mean": 1, "interval": [-1, 3]}, "5": None}]
    message = PICTURES["rays"](numbers).message
    assert "do not differ beyond the 95 % interval of the difference, -1 to 3" in message
    assert "is not known" in message


def test_message_of_a_segment_says_that_a_minimum_may_lie_beyond(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "segment.npz")
    width = numbers.description["width"]
    width.update(train_minimum=1.0, test_minimum=0.0)
    assert "beyond" not in PICTURES["segment"](numbers).message
    width["test_minimum"] = float(numbers.arrays["position"][0])
    assert "For test error that is the end" in PICTURES["segment"](numbers).message


def test_segment_between_other_checkpoints_is_not_called_average_and_conventional(
    tmp_path, write_surfaces
):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "segment.npz")
    first, second = numbers.description["checkpoints"]
    numbers.description["checkpoints"] = [second, first]
    message = PICTURES["segment"](numbers).message
    assert "the conventional weights, at 0, and the average, at 4" in message
    numbers.description["checkpoints"] = [second, {**second, "name": "b.safetensors"}]
    assert "cycle-001, at 0, and b, at 4" in PICTURES["segment"](numbers).message


def test_message_of_a_trajectory_begins_with_its_verdict(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "trajectory.npz")
    verdict = "Drifting"
    assert PICTURES["trajectory"](numbers).message.startswith(verdict)


def test_message_of_a_plane_says_where_the_average_is(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    numbers.arrays["projected_xyd"][0] = (1.4, 2.2, 0.5)
    text = "The average lies at (1.4, 2.2) of the plane, 1.79 from there"
    assert text in PICTURES["plane"](numbers).message
    numbers.description["projected"][0]["kind"] = "checkpoint"
    assert "average" not in PICTURES["plane"](numbers).message


def test_estimators_that_agree_are_all_seen():
    points = [(256.0, 60.0), (1000.0, 62.0)]
    curves = dict.fromkeys(("population", "batch-mean", "sample-weighted"), points)
    (axes,) = figure_of(bn_ablation_picture(curves, {})).axes
    assert len({line.get_markersize() for line in axes.lines}) == 3
    assert {line.get_markerfacecolor() for line in axes.lines} == {"none"}


def test_sweep_says_what_its_bands_are():
    picture = sweep_picture({"first n": [(1, 60.0, 1000), (2, 64.5, 1000)]})
    assert "95 %" in picture.message
    assert "95 %" in figure_of(picture).axes[0].get_ylabel()


def test_bins_of_few_images_have_small_markers():
    logits = np.concatenate([np.tile([9.0, 0], (99, 1)), [[0.1, 0]]])
    figure = figure_of(reliability_picture({"one": (logits, np.zeros(100, np.int64))}))
    (markers,) = figure.axes[0].collections
    small, large = markers.get_sizes()
    assert small < large / 10
    assert not markers.get_clip_on()


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
    levels = contour_levels(np.full((3, 3), 7.0))
    assert len(levels) >= 2
    assert np.all(np.diff(levels) > 0)


def test_contour_levels_of_no_values_do_not_exist():
    assert contour_levels(np.full((3, 3), np.nan)).size == 0


@pytest.mark.parametrize("n_images", [100, 1000, 50_000])
def test_contour_levels_are_round_and_no_finer_than_an_image(n_images):
    random = np.random.default_rng(n_images)
    x = np.linspace(-1, 1, 15)
    errors = 35 + 2 * (x[:, None] ** 2 + x[None, :] ** 2) + 0.1 * random.standard_normal((15, 15))
    unit = 100 / n_images
    errors = np.round(errors / unit) * unit
    levels = contour_levels(errors, unit=unit)
    assert 2 <= len(levels) <= N_LEVELS
    assert np.diff(levels).min() >= unit * (1 - 1e-9)
    assert levels == pytest.approx(np.round(levels, 1), abs=1e-9)
    # Not all of them around one point of the grid.
    assert np.sum(errors <= levels[0] + 1e-9) >= 3


def test_contour_levels_span_a_wide_range():
    x = np.linspace(-1, 1, 41)
    surface = 5 + 80 * (x[:, None] ** 2 + x[None, :] ** 2)
    levels = contour_levels(surface, unit=0.01)
    assert levels[0] < 10
    assert levels[-1] >= 80


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
