"""The running mean: at every moment the average of what was added, by the kernel's rules."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swa_tools.averaging import RunningMean, average_checkpoints, iterate_running
from swa_tools.checkpoints import open_checkpoint, write_checkpoint
from swa_tools.errors import CheckpointError

DTYPES = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    np.complex64,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2fnuz,
]
COUNTER = "bn.num_batches_tracked"


def drawn(dtype, shape, seed):
    """Draw numbers of many magnitudes, and zeros of both signs."""
    generator = np.random.default_rng(seed)
    size = 2 * int(np.prod(shape)) if dtype is np.complex64 else int(np.prod(shape))
    numbers = generator.normal(size=size) * 2.0 ** generator.integers(-12, 6, size)
    numbers[generator.random(size) < 0.2] = 0.0
    numbers[generator.random(size) < 0.2] = -0.0
    if dtype is np.complex64:
        return numbers.astype(np.float32).view(dtype).reshape(shape)
    return numbers.astype(dtype).reshape(shape)


def as_bytes(arrays):
    return {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in arrays.items()}


def mean_of(*states, **options):
    running = RunningMean(**options)
    for number, arrays in enumerate(states):
        running.add(arrays, where=f"file {number}")
    return running


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 6), shape=st.sampled_from([(), (0, 3), (7,), (3, 5)]), seed=st.integers(0))
def test_it_equals_the_average_of_the_files_bit_for_bit(tmp_path_factory, dtype, n, shape, seed):
    folder = tmp_path_factory.mktemp("files")
    states = [{"w": drawn(dtype, shape, (seed, k)), COUNTER: np.array(k)} for k in range(n)]
    paths = [folder / f"{k}.safetensors" for k in range(n)]
    for path, arrays in zip(paths, states, strict=True):
        write_checkpoint(path, arrays, None)
    average_checkpoints(paths, folder / "out.safetensors")
    with open_checkpoint(folder / "out.safetensors") as checkpoint:
        expected = {name: checkpoint.read(name) for name in checkpoint.tensors}
    assert as_bytes(mean_of(*states).mean()) == as_bytes(expected)
    tried = mean_of(*states[:-1]).mean_with(states[-1], where="the last")
    assert as_bytes(tried) == as_bytes(expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.complex64])
@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 9), seed=st.integers(0))
def test_it_is_the_float64_mean_of_numpy_converted_once(dtype, n, seed):
    arrays = [drawn(dtype, (4, 3), (seed, k)) for k in range(n)]
    wide = np.complex128 if dtype is np.complex64 else np.float64
    found = mean_of(*({"w": array} for array in arrays)).mean()["w"]
    assert found.dtype == dtype
    expected = np.mean([array.astype(wide) for array in arrays], axis=0)
    if dtype is np.float64:  # NumPy may add in another order
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    else:
        np.testing.assert_array_almost_equal_nulp(found, expected.astype(dtype), 1)


def test_trying_one_more_changes_nothing():
    running = mean_of({"w": np.array([1.0]), COUNTER: np.array(7)})
    tried = running.mean_with({"w": np.array([4.0]), COUNTER: np.array(9)}, where="next")
    assert (tried["w"], tried[COUNTER]) == ([2.5], 9)
    found = running.mean()
    assert (found["w"], found[COUNTER], running.n_averaged) == ([1.0], 7, 1)


def test_arrays_are_shared_in_neither_direction():
    arrays = {"w": np.ones(2), "index": np.ones(2, np.int32)}
    running = mean_of(arrays)
    for array in (*arrays.values(), *running.mean().values()):
        array[:] = 5
    assert {name: array.tolist() for name, array in running.mean().items()} == {
        "w": [1.0, 1.0],
        "index": [1, 1],
    }


def test_another_mean_goes_on_from_a_state_bit_for_bit():
    states = [
        {"w": drawn(np.float32, (9,), k), "z": drawn(np.complex64, (), k), COUNTER: np.array(k)}
        for k in range(4)
    ]
    one, other = mean_of(*states[:2]), RunningMean()
    other.load_state_dict(one.state_dict())
    for state in states[2:]:
        one.add(state, where="later")
        other.add(state, where="later")
    assert other.n_averaged == 4
    assert as_bytes(other.mean()) == as_bytes(one.mean()) == as_bytes(mean_of(*states).mean())


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("w", np.ones((3, 1), np.float32), r"'w' has shape \(3, 1\), in file 0 it has \(3,\)"),
        ("w", np.ones(3, np.float16), "'w' has dtype F16, in file 0 it has F32"),
        (
            "index",
            np.array([1, 3]),
            r"'index' \(I64\) cannot be averaged and differs from .*file 0",
        ),
        ("mask", np.array([True, True]), r"'mask' \(BOOL\) cannot be averaged and differs"),
        ("scale", np.array([2.0], ml_dtypes.float8_e8m0fnu), r"'scale' \(F8_E8M0\) cannot be"),
        ("x", np.ones(1), "not of the same model as file 0: only it has 'x'"),
        ("w", None, "not of the same model as file 0: it lacks 'w'"),
        ("w", np.array([1, np.nan, 1], np.float32), "'w' holds NaN or Inf"),
        ("w", np.array([1, np.inf, 1], np.float32), "'w' holds NaN or Inf"),
    ],
)
def test_what_does_not_belong_is_an_error_that_names_it_and_does_not_count(name, changed, message):
    arrays = {
        "w": np.ones(3, np.float32),
        "index": np.array([1, 2]),
        "mask": np.array([True, False]),
        "scale": np.array([1.0], ml_dtypes.float8_e8m0fnu),
    }
    running = mean_of(arrays)
    before = as_bytes(running.mean())
    other = {key: a for key, a in {**arrays, name: changed}.items() if a is not None}
    for step in (running.add, running.mean_with):
        with pytest.raises(CheckpointError, match=f"^the other: (tensor )?{message}"):
            step(other, where="the other")
    assert (running.n_averaged, as_bytes(running.mean())) == (1, before)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if "fn" not in np.dtype(d).name])
def test_nan_and_inf_pass_where_they_are_allowed(dtype):
    states = [{"w": np.array([1, bad], dtype)} for bad in (1, np.inf, -np.inf)]
    with pytest.raises(CheckpointError, match="file 1: tensor 'w' holds NaN or Inf"):
        mean_of(*states)
    found = mean_of(*states, allow_nonfinite=True).mean()["w"]
    assert found[0] == 1
    assert np.isnan(found[1])


@pytest.fixture
def written(checkpoints, states):
    made = [
        {
            **state,
            "bf16": drawn(ml_dtypes.bfloat16, (70_000,), k),
            "f64": drawn(np.float64, (2, 3), k),
            "c64": drawn(np.complex64, (), k),
        }
        for k, state in enumerate(states(4))
    ]
    return checkpoints(*made)


@pytest.mark.parametrize("reverse", [False, True])
def test_iterating_gives_the_average_of_each_end(written, average, reverse):
    found = list(iterate_running(written, reverse=reverse))
    assert len(found) == 4
    for n, averages in enumerate(found, start=1):
        expected = average(written[-n:] if reverse else written[:n])
        assert averages.keys() == expected.keys()
        for name, array in averages.items():
            if reverse and name == "f64":  # added from the end, its last bit may differ
                np.testing.assert_array_max_ulp(array, expected[name], 2)
            else:
                assert as_bytes({name: array}) == as_bytes({name: expected[name]})


def test_every_byte_is_read_once(written, monkeypatch):
    from swa_tools.checkpoints import Checkpoint

    counted, read_into = [], Checkpoint.read_into

    def counting(self, name, offset, buffer):
        counted.append(len(buffer))
        read_into(self, name, offset, buffer)

    monkeypatch.setattr(Checkpoint, "read_into", counting)
    assert len(list(iterate_running(written))) == 4
    with open_checkpoint(written[0]) as checkpoint:
        assert sum(counted) == 4 * checkpoint.n_bytes


def test_tied_names_are_iterated_too(tmp_path):
    paths = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for k, path in enumerate(paths):
        write_checkpoint(path, {"embed": np.full(3, float(k))}, None, ties={"head": "embed"})
    *_, both = iterate_running(paths)
    assert both["head"].tolist() == both["embed"].tolist() == [0.5] * 3


def test_checkpoints_that_differ_are_an_error_before_the_first_average(checkpoints):
    paths = checkpoints({"w": np.ones(3)}, {"w": np.ones(3)}, {"w": np.ones(2)})
    with pytest.raises(CheckpointError, match="002.safetensors: tensor 'w' has shape"):
        next(iterate_running(paths))


def test_nan_in_a_file_is_an_error_that_names_it(checkpoints):
    paths = checkpoints({"w": np.ones(3)}, {"w": np.full(3, np.nan)})
    with pytest.raises(CheckpointError, match="001.safetensors: tensor 'w' holds NaN or Inf"):
        list(iterate_running(paths))
