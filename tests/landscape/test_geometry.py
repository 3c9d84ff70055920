import contextlib
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swa_tools.averaging import open_all
from swa_tools.checkpoints import open_checkpoint
from swa_tools.errors import CheckpointError
from swa_tools.landscape.geometry import (
    Plane,
    distance,
    line_tensors,
    norm,
    own_tensors,
    parameter_names,
    random_direction,
    ray_tensors,
)

SHAPES = {"conv.weight": (3, 2, 2), "bn.weight": (3,), "bn.bias": (3,), "scale": ()}


def draw(seed, *, dtype=np.float32, scale=1.0):
    random = np.random.default_rng(seed)
    tensors = {
        name: np.asarray(scale * random.standard_normal(shape)).astype(dtype)
        for name, shape in SHAPES.items()
    }
    tensors["bn.running_mean"] = np.full(3, seed, np.float32)
    tensors["bn.running_var"] = np.full(3, seed + 1, np.float32)
    tensors["bn.num_batches_tracked"] = np.array(seed, np.int64)
    return tensors


def flat(tensors):
    """The parameters as one float64 vector, in the order of SHAPES."""
    return np.concatenate([np.asarray(tensors[name], np.float64).reshape(-1) for name in SHAPES])


@contextlib.contextmanager
def opened(write, *tensors):
    with open_all([write(f"w{i}", one) for i, one in enumerate(tensors)]) as checkpoints:
        yield checkpoints


def test_parameters_are_all_but_running_statistics_and_counters(write):
    with opened(write, draw(0), draw(1)) as checkpoints:
        assert set(parameter_names(checkpoints)) == set(SHAPES)


def test_norm_and_distance_are_those_of_the_flat_vectors(write):
    a, b = draw(0), draw(1)
    with opened(write, a, b) as (one, other):
        assert norm(one, list(SHAPES)) == pytest.approx(np.linalg.norm(flat(a)), rel=1e-14)
        expected = np.linalg.norm(flat(a) - flat(b))
        assert distance(one, other, list(SHAPES)) == pytest.approx(expected, rel=1e-14)


def test_plane_is_that_of_gram_and_schmidt_on_flat_vectors(write):
    a, b, c = draw(0), draw(1), draw(2)
    u = (flat(b) - flat(a)) / np.linalg.norm(flat(b) - flat(a))
    v = flat(c) - flat(a) - np.dot(flat(c) - flat(a), u) * u
    v /= np.linalg.norm(v)
    with opened(write, a, b, c) as checkpoints:
        plane = Plane(*checkpoints)
        for x, y in [(0.0, 0.0), (1.5, -2.0), (-30.0, 7.0)]:
            point = flat(dict(plane.tensors(x, y)))
            np.testing.assert_allclose(point, flat(a) + x * u + y * v, rtol=1e-12, atol=1e-13)


def test_corners_of_the_plane_are_the_checkpoints(write):
    tensors = [draw(0), draw(1), draw(2)]
    with opened(write, *tensors) as checkpoints:
        plane = Plane(*checkpoints)
        for (x, y), own in zip(plane.corners, tensors, strict=True):
            np.testing.assert_allclose(flat(dict(plane.tensors(x, y))), flat(own), atol=1e-13)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seeds=st.tuples(*[st.integers(0, 10**6)] * 3).filter(lambda s: len(set(s)) == 3),
    one=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    other=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_distances_on_the_plane_are_distances_in_weight_space(tmp_path, seeds, one, other):
    from swa_tools.checkpoints import write_checkpoint

    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, seed in zip(paths, seeds, strict=True):
        write_checkpoint(path, draw(seed), None, force=True)
    with open_all(paths) as checkpoints:
        plane = Plane(*checkpoints)
        difference = flat(dict(plane.tensors(*one))) - flat(dict(plane.tensors(*other)))
    assert np.linalg.norm(difference) == pytest.approx(np.hypot(*np.subtract(one, other)), abs=1e-9)


def test_projection_finds_coordinates_and_distance(write):
    a, b, c, d = draw(0), draw(1), draw(2), draw(3)
    with opened(write, a, b, c, d) as (*corners, other):
        plane = Plane(*corners)
        found = plane.project(other)
        nearest = flat(dict(plane.tensors(found.x, found.y)))
        assert found.distance == pytest.approx(np.linalg.norm(flat(d) - nearest), rel=1e-12)
        for corner in corners:  # what is left is at right angles to the plane
            along = flat(dict(own_tensors(corner))) - flat(a)
            assert abs(np.dot(flat(d) - nearest, along)) < 1e-12
        assert plane.project(corners[2]).distance < 1e-12


def test_what_is_no_parameter_comes_from_the_first_checkpoint(write):
    with opened(write, draw(5), draw(6), draw(7)) as checkpoints:
        point = dict(Plane(*checkpoints).tensors(1.0, 1.0))
    assert set(point) == set(draw(5))
    np.testing.assert_array_equal(point["bn.running_mean"], np.full(3, 5.0))
    assert point["bn.num_batches_tracked"] == 5


def test_a_third_checkpoint_on_the_line_is_refused(write):
    a, b = draw(0), draw(1)
    middle = {name: ((a[name] + b[name]) / 2).astype(a[name].dtype) for name in a}
    with (
        opened(write, a, b, middle) as checkpoints,
        pytest.raises(CheckpointError, match=r"w2\.safetensors: lies on the line"),
    ):
        Plane(*checkpoints)


def test_equal_checkpoints_are_refused(write):
    with (
        opened(write, draw(0), draw(0), draw(1)) as checkpoints,
        pytest.raises(CheckpointError, match=r"w1\.safetensors: has the same parameters"),
    ):
        Plane(*checkpoints)


def test_checkpoints_of_other_models_are_refused(write):
    other = draw(2)
    del other["scale"]
    with (
        opened(write, draw(0), draw(1), other) as checkpoints,
        pytest.raises(CheckpointError, match=r"w2\.safetensors: not of the same model"),
    ):
        Plane(*checkpoints)


@pytest.mark.parametrize("number", range(4))
def test_nan_is_refused_with_the_name_of_the_file(write, number):
    """Check the corners, and what is projected."""
    tensors = [draw(i) for i in range(4)]
    tensors[number]["bn.bias"][0] = np.nan
    with (
        opened(write, *tensors) as (*corners, other),
        pytest.raises(CheckpointError, match=rf"w{number}\.safetensors: its parameters contain"),
    ):
        Plane(*corners).project(other)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_floating_point_format_is_read_in_full(write, dtype):
    a, b = draw(0, dtype=dtype), draw(1, dtype=dtype)
    with opened(write, a, b) as (one, other):
        expected = np.linalg.norm(flat(a) - flat(b))
        assert distance(one, other, list(SHAPES)) == pytest.approx(expected, rel=1e-14)
        own = dict(own_tensors(one))
    assert own["conv.weight"].dtype == np.float64
    np.testing.assert_array_equal(own["conv.weight"], a["conv.weight"].astype(np.float64))


def test_checkpoints_of_different_formats_go_together(write):
    with opened(write, draw(0), draw(1, dtype=ml_dtypes.bfloat16), draw(2)) as checkpoints:
        assert Plane(*checkpoints).corners[1][0] > 0


def test_complex_parameters_count_with_both_parts(write):
    a, b = {"w": np.array([1 + 2j, 3j], np.complex64)}, {"w": np.array([1 + 1j, 1], np.complex64)}
    with opened(write, a, b) as (one, other):
        assert distance(one, other, ["w"]) == pytest.approx(np.sqrt(1 + 10))
        middle = dict(line_tensors(one, other, ["w"], 0.5))["w"]
    np.testing.assert_allclose(middle, np.array([1 + 1.5j, 0.5 + 1.5j]))


def test_line_goes_through_both_checkpoints_and_beyond(write):
    a, b = draw(0), draw(1)
    with opened(write, a, b) as (one, other):
        for t in (0.0, 1.0, -1.5, 0.25):
            point = flat(dict(line_tensors(one, other, list(SHAPES), t)))
            np.testing.assert_allclose(point, (1 - t) * flat(a) + t * flat(b), atol=1e-13)


def test_direction_has_length_one_over_all_parameters_jointly(write):
    with opened(write, draw(0)) as (checkpoint,):
        direction = random_direction(checkpoint, list(SHAPES), seed=3, number=0)
    assert set(direction) == set(SHAPES)
    assert np.linalg.norm(flat(direction)) == pytest.approx(1, rel=1e-14)


def test_direction_is_uniform_on_the_sphere(write):
    """Every parameter has mean 0 and mean square 1/P, whatever tensor it is in."""
    with opened(write, draw(0)) as (checkpoint,):
        drawn = np.stack(
            [
                flat(random_direction(checkpoint, list(SHAPES), seed=0, number=number))
                for number in range(4000)
            ]
        )
    n_parameters = drawn.shape[1]
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose((drawn**2).mean(axis=0), 1 / n_parameters, rtol=0.1)


def test_direction_depends_on_seed_and_number_and_not_on_the_weights_or_their_order(write):
    reordered = dict(reversed(draw(1).items()))
    with opened(write, draw(0), reordered) as (one, other):
        names = list(SHAPES)
        first = flat(random_direction(one, names, seed=1, number=2))
        again = flat(random_direction(other, names[::-1], seed=1, number=2))
        np.testing.assert_array_equal(first, again)
        for seed, number in ((1, 3), (2, 2)):
            assert not np.allclose(
                first, flat(random_direction(one, names, seed=seed, number=number))
            )


def test_ray_is_base_plus_t_times_direction(write):
    base = draw(4)
    path = write("base", base)
    with open_checkpoint(path) as checkpoint:
        direction = random_direction(checkpoint, list(SHAPES), seed=0, number=0)
        point = dict(ray_tensors(checkpoint, direction, 2.5))
    np.testing.assert_allclose(flat(point), flat(base) + 2.5 * flat(direction), rtol=1e-14)
    np.testing.assert_array_equal(point["bn.running_var"], base["bn.running_var"])


def peak_bytes(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_point_takes_the_memory_of_a_few_tensors(write):
    """A checkpoint has forty tensors here; a point of the plane reads three of them."""
    random, n_elements = np.random.default_rng(0), 50_000
    large = [
        {f"w{i}": random.standard_normal(n_elements).astype(np.float32) for i in range(40)}
        for _ in range(4)
    ]
    tensor_bytes = 8 * n_elements
    with opened(write, *large) as (*corners, other):
        plane = Plane(*corners)
        names = plane.names

        def consume(tensors):
            for _ in tensors:
                pass

        for work in (
            lambda: consume(plane.tensors(1.0, 2.0)),
            lambda: consume(line_tensors(*corners[:2], names, 0.5)),
            lambda: plane.project(other),
            lambda: Plane(*corners),
        ):
            assert peak_bytes(work) < 16 * tensor_bytes
        direction = peak_bytes(lambda: random_direction(other, names, seed=0, number=0))
        assert direction < (len(names) + 4) * tensor_bytes
