import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from swa_tools.errors import CheckpointError
from swa_tools.landscape import trajectory as module
from swa_tools.landscape.trajectory import (
    describe_trajectory,
    explore,
    lag_profile,
    trajectory,
    trajectory_arrays,
)

N, P = 7, 40_000


@pytest.fixture
def path_of(write):
    """Write the rows of a matrix as captures and measure the path through them."""

    def call(rows, **arguments):
        paths = [
            write(f"cycle-{i}", {"a": row[:1000].reshape(10, 100), "b": row[1000:]})
            for i, row in enumerate(rows.astype(np.float32))
        ]
        return trajectory(paths, **arguments)

    return call


def motion(kind, *, n=N):
    random = np.random.default_rng(1)
    center, noise = random.standard_normal(P), 0.01 * random.standard_normal((n, P))
    if kind == "independent":
        return center + noise
    if kind == "random_walk":
        return center + np.cumsum(noise, axis=0)
    return center + np.arange(n)[:, None] * noise[0]


def test_lengths_and_angles_are_those_of_the_flat_vectors(path_of, write):
    rows = motion("random_walk").astype(np.float32)
    start = motion("independent")[3].astype(np.float32)
    first = write("start", {"a": start[:1000].reshape(10, 100), "b": start[1000:]})
    path = path_of(rows, start=first)
    rows, start = rows.astype(np.float64), start.astype(np.float64)
    mean = rows.mean(axis=0)
    steps = np.diff(rows, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    cosines = np.sum(steps[1:] * steps[:-1], axis=1) / (lengths[1:] * lengths[:-1])
    expected = {
        "norms": np.linalg.norm(rows, axis=1),
        "steps": lengths,
        "to_mean": np.linalg.norm(rows - mean, axis=1),
        "to_start": np.linalg.norm(rows - start, axis=1),
        "step_cosines": cosines,
        "squared_distances": [[np.sum((a - b) ** 2) for b in rows] for a in rows],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(path, name), value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert path.mean_norm == pytest.approx(np.linalg.norm(mean), rel=1e-12)
    assert path.start_to_mean == pytest.approx(np.linalg.norm(start - mean), rel=1e-9)
    assert path.start_norm == pytest.approx(np.linalg.norm(start), rel=1e-12)
    assert path.n_parameters == P


@pytest.mark.parametrize("kind", ["independent", "random_walk", "straight"])
def test_three_kinds_of_motion_are_told_by_what_is_expected_of_them(path_of, kind):
    found = explore(path_of(motion(kind)))
    for name, one in found.items():
        assert one.measured == pytest.approx(getattr(one, kind), abs=0.02), name


def test_expected_values_are_those_of_section_3_6(path_of):
    found = explore(path_of(motion("independent")))
    assert found["deviation_cosine"].independent == pytest.approx(-1 / (N - 1))
    assert found["step_cosine"].independent == -0.5
    assert found["neighbour_distance"].independent == 1


def test_lag_profile_is_flat_for_independent_samples_and_grows_for_others(path_of):
    k = np.arange(1, N)
    for kind, expected in (
        ("independent", np.ones(N - 1)),
        ("random_walk", 3 * k / (N + 1)),
        ("straight", 6 * k**2 / (N * (N + 1))),
    ):
        np.testing.assert_allclose(lag_profile(path_of(motion(kind))), expected, rtol=0.03)


def test_small_steps_of_large_weights_keep_their_digits(path_of):
    """The squares of steps are 1e-13 of those of the weights here."""
    rows = np.full((3, P), 1024.0)
    rows[1, 0] += 2**-10
    rows[2, :4] += 2**-10
    np.testing.assert_allclose(path_of(rows).steps, [2**-10, 2**-10 * np.sqrt(3)], rtol=1e-12)


def test_small_blocks_give_the_same_numbers(path_of, monkeypatch):
    rows = motion("random_walk", n=4)
    whole = path_of(rows)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 4 * 331)
    blocks = path_of(rows)
    np.testing.assert_allclose(whole.squared_distances, blocks.squared_distances, rtol=1e-10)


def test_running_statistics_do_not_count(write):
    paths = [
        write(str(i), {"w": np.float32([i]), "bn.running_mean": np.float32([100 * i])})
        for i in range(3)
    ]
    np.testing.assert_allclose(trajectory(paths).steps, [1, 1])


def test_equal_captures_have_no_angles(write):
    paths = [write(str(i), {"w": np.float32([1, 2])}) for i in range(3)]
    path = trajectory(paths)
    assert np.all(path.steps == 0)
    described = describe_trajectory(path)["exploration"]
    assert {one["measured"] for one in described.values()} == {None}
    assert np.isnan(trajectory_arrays(path)["step_cosines"]).all()


def test_fewer_than_three_captures_are_refused(write):
    with pytest.raises(CheckpointError, match="at least 3 checkpoints, found 1"):
        trajectory([write("one", {"w": np.float32([1])})])


def test_nan_is_refused_with_the_name_of_the_file(write):
    paths = [write(str(i), {"w": np.float32([i, 1 if i != 1 else np.nan])}) for i in range(3)]
    with pytest.raises(CheckpointError, match=r"1\.safetensors: its parameters contain NaN"):
        trajectory(paths)


def test_trajectory_loads_no_torch(write):
    paths = [str(write(str(i), {"w": np.float32([i, i * i])})) for i in range(3)]
    script = (
        "import sys; from swa_tools.landscape.trajectory import trajectory;"
        f"trajectory({paths}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_memory_does_not_grow_with_tensors_or_captures(write, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 20_000)
    rows = np.random.default_rng(0).standard_normal((6, 400_000)).astype(np.float32)
    paths = [write(str(i), {"w": row}) for i, row in enumerate(rows)]
    tracemalloc.start()
    try:
        trajectory(paths)
        assert tracemalloc.get_traced_memory()[1] < 1e6  # a single tensor has 1.6e6 bytes
    finally:
        tracemalloc.stop()
