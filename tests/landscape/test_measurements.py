"""Planes, rays and segments on a small network."""

import json

import numpy as np
import pytest

from swa_tools.averaging import average_checkpoints, open_all
from swa_tools.batchnorm import BnOptions, update_checkpoint
from swa_tools.distributed import single_process
from swa_tools.errors import CheckpointError, OutputError, SwaToolsError
from swa_tools.evaluation import EvaluationOptions, evaluate_checkpoints
from swa_tools.landscape.geometry import Plane, distance, norm, parameter_names
from swa_tools.landscape.plane import PlaneOptions, measure_plane
from swa_tools.landscape.ray import RayOptions, measure_rays
from swa_tools.landscape.segment import SegmentOptions, measure_segment
from swa_tools.measurements import read_numbers


@pytest.fixture(scope="module")
def average(captures, tmp_path_factory):
    path = tmp_path_factory.mktemp("average") / "swa.safetensors"
    average_checkpoints(captures, path)
    return path


def test_checkpoints_of_a_plane_equal_what_update_bn_and_evaluate_say(
    captures, average, survey, tmp_path
):
    corners = [captures[0], captures[2], average]
    the_survey = survey()
    measure_plane(corners, the_survey, options=PlaneOptions(n_points=2))
    numbers = read_numbers(the_survey.output)
    context, updated = single_process("cpu"), []
    for number, path in enumerate(corners):
        updated.append(tmp_path / f"updated-{number}.safetensors")
        update_checkpoint(
            path,
            updated[-1],
            the_survey.train,
            options=BnOptions(n_samples=9, batch_size=4, workers=0),
            context=context,
        )
    scores = evaluate_checkpoints(
        updated, the_survey.val, options=EvaluationOptions(batch_size=4, workers=0), context=context
    )
    for number, one in enumerate(scores.checkpoints):
        assert numbers.arrays["checkpoint_test_error"][number] == 100 - one.score.top1
        assert numbers.arrays["checkpoint_test_loss"][number] == one.score.nll


def test_plane_holds_what_its_description_says(captures, center, average, survey):
    the_survey = survey()
    measure_plane(
        captures[:3],
        the_survey,
        projected=[center, average],
        options=PlaneOptions(n_points=3, margin=0.5),
    )
    numbers = read_numbers(the_survey.output)
    arrays, description = numbers.arrays, numbers.description
    assert numbers.kind == "plane"
    assert arrays["test_error"].shape == arrays["train_objective"].shape == (3, 3)
    np.testing.assert_allclose(arrays["train_objective"], arrays["train_loss"] + arrays["l2"])
    assert [one["name"] for one in description["checkpoints"]] == [p.name for p in captures[:3]]
    assert [one["name"] for one in description["projected"]] == [center.name, average.name]
    assert [one["kind"] for one in description["checkpoints"]] == ["checkpoint"] * 3
    assert [one["kind"] for one in description["projected"]] == ["average"] * 2
    with open_all([*captures, center, average]) as checkpoints:
        plane = Plane(*checkpoints[:3])
        np.testing.assert_array_equal(arrays["checkpoint_xy"], plane.corners)
        found = plane.project(checkpoints[4])
        np.testing.assert_array_equal(
            arrays["projected_xyd"][1], [found.x, found.y, found.distance]
        )
    beside = json.loads(the_survey.output.with_suffix(".json").read_text())
    assert beside == description
    points = [*arrays["checkpoint_xy"].tolist(), *arrays["projected_xyd"][:, :2].tolist()]
    extent = np.ptp(points, axis=0).max()
    for axis, name in enumerate("xy"):
        low, high = arrays[name][0], arrays[name][-1]
        assert low == pytest.approx(min(p[axis] for p in points) - extent / 2)
        assert high == pytest.approx(max(p[axis] for p in points) + extent / 2)


def test_plane_grid_agrees_with_its_checkpoints(captures, survey):
    """A grid without margin has A in a corner; it is reached by way of the basis there."""
    the_survey = survey()
    measure_plane(captures[:3], the_survey, options=PlaneOptions(n_points=2, margin=0.0))
    arrays = read_numbers(the_survey.output).arrays
    assert (arrays["x"][0], arrays["y"][0]) == (0, 0)
    assert arrays["train_loss"][0, 0] == pytest.approx(arrays["checkpoint_train_loss"][0], rel=1e-5)
    assert arrays["l2"][0, 0] == pytest.approx(arrays["checkpoint_l2"][0], rel=1e-12)


@pytest.mark.parametrize("n", [0, 2, 4])
def test_a_plane_needs_three_checkpoints(captures, center, survey, n):
    with pytest.raises(SwaToolsError, match=f"needs 3 checkpoints, found {n}"):
        measure_plane([*captures, center][:n], survey())


def test_numbers_have_a_name_that_says_so(captures, survey):
    with pytest.raises(OutputError, match="are written as .npz"):
        measure_plane(captures[:3], survey(output="plane.txt"))


def test_rays_start_at_their_checkpoints_and_share_directions(captures, average, survey):
    the_survey = survey()
    options = RayOptions(n_rays=2, n_points=2, distance=1.0, seed=5)
    measure_rays([average, captures[0]], the_survey, options=options)
    numbers = read_numbers(the_survey.output)
    arrays, description = numbers.arrays, numbers.description
    assert numbers.kind == "rays"
    np.testing.assert_array_equal(arrays["t"], [0, 0.5, 1])
    assert arrays["test_error"].shape == (2, 2, 3)
    assert np.ptp(arrays["train_loss"][:, :, 0], axis=1).max() == 0
    assert (arrays["train_loss"][:, 0, 1:] != arrays["train_loss"][:, 1, 1:]).all()
    assert description["direction_seed"] == 5
    assert len(description["wider_than_next"]) == 1
    assert set(description["checkpoints"][0]["width"]) == {"1", "5"}


def test_a_checkpoint_given_twice_has_the_same_rays(captures, survey, tmp_path):
    same = tmp_path / "same.safetensors"
    same.write_bytes(captures[0].read_bytes())
    the_survey = survey()
    options = RayOptions(n_rays=2, n_points=1, distance=2.0)
    measure_rays([captures[0], same], the_survey, options=options)
    arrays = read_numbers(the_survey.output).arrays
    np.testing.assert_array_equal(arrays["train_loss"][0], arrays["train_loss"][1])


def test_rays_are_half_as_long_as_the_weights_by_default(captures, survey):
    the_survey = survey(bn_samples=0)
    measure_rays(captures[:1], the_survey, options=RayOptions(n_rays=1, n_points=1))
    with open_all(captures[:1]) as checkpoints:
        length = norm(checkpoints[0], parameter_names(checkpoints))
    arrays = read_numbers(the_survey.output).arrays
    assert arrays["t"][-1] == pytest.approx(length / 2)


def test_segment_goes_through_both_checkpoints_by_signed_distance(captures, average, survey):
    the_survey = survey()
    options = SegmentOptions(n_points=2, beyond=0.5)
    measure_segment(average, captures[0], survey=the_survey, options=options)
    numbers = read_numbers(the_survey.output)
    arrays, description = numbers.arrays, numbers.description
    with open_all([average, captures[0]]) as checkpoints:
        length = distance(*checkpoints, parameter_names(checkpoints))
    assert description["distance"] == length
    np.testing.assert_allclose(arrays["t"], [-0.5, 0, 0.5, 1, 1.5])
    np.testing.assert_allclose(arrays["position"], np.array([-0.5, 0, 0.5, 1, 1.5]) * length)
    rays = survey(output="rays.npz")
    measure_rays(
        [average, captures[0]], rays, options=RayOptions(n_rays=1, n_points=1, distance=1.0)
    )
    own = read_numbers(rays.output).arrays["train_loss"][:, 0, 0]
    np.testing.assert_array_equal(arrays["train_loss"][[1, 3]], own)
    assert set(description["width"]) >= {"train_minimum", "test_minimum", "shift", "sides"}


def test_a_segment_between_equal_weights_is_refused(captures, survey, tmp_path):
    same = tmp_path / "same.safetensors"
    same.write_bytes(captures[0].read_bytes())
    with pytest.raises(CheckpointError, match="the same parameters"):
        measure_segment(captures[0], same, survey=survey())


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda c, s: measure_plane(c[:3], s, options=PlaneOptions(n_points=1)), "at least 2"),
        (lambda c, s: measure_rays(c, s, options=RayOptions(n_rays=0)), "at least 1 ray"),
        (
            lambda c, s: measure_segment(*c[:2], survey=s, options=SegmentOptions(n_points=0)),
            "at least 1 point",
        ),
    ],
)
def test_empty_grids_are_refused(captures, survey, measure, message):
    with pytest.raises(SwaToolsError, match=message):
        measure(captures, survey())
