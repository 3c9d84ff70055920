"""Running averages: each equal to the average of its own sources, every byte read once."""

import os

import ml_dtypes
import numpy as np
import pytest

from swa_tools.averaging import (
    AverageOptions,
    average_checkpoints,
    average_running,
    iterate_running,
)
from swa_tools.checkpoints import content_digest, open_checkpoint, read_metadata
from swa_tools.errors import CheckpointError, OutputError


def names_of(n):
    first = [(f"first-{k:03d}.safetensors", range(k)) for k in range(1, n + 1)]
    return first + [(f"last-{k:03d}.safetensors", range(n - k, n)) for k in range(1, n)]


def bytes_of(path):
    with open_checkpoint(path) as checkpoint:
        return {name: bytes(checkpoint.read_bytes(name)) for name in checkpoint.tensors}


@pytest.fixture
def written(checkpoints, states):
    extra = np.random.default_rng(1)
    made = [
        {
            **state,
            "bf16": extra.normal(size=70_000).astype(ml_dtypes.bfloat16),
            "f8": extra.normal(size=9).astype(ml_dtypes.float8_e4m3fn),
            "c64": (extra.normal(size=5) + 1j * extra.normal(size=5)).astype(np.complex64),
            "f64": extra.normal(size=(2, 3)),
            "scalar": np.array(extra.normal(), np.float32),
            "empty": np.zeros((0, 3), np.float32),
        }
        for state in states(4)
    ]
    return checkpoints(*made)


def assert_same(path, other, *, exactly):
    with open_checkpoint(path) as one, open_checkpoint(other) as two:
        assert one.tensors == two.tensors
        for name, info in one.tensors.items():
            if exactly or info.dtype != "F64":
                assert one.read_bytes(name) == two.read_bytes(name), name
            else:
                np.testing.assert_array_max_ulp(one.read(name), two.read(name), 2)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_each_output_is_the_average_of_its_sources(written, tmp_path, n_threads):
    """The sums of the last n begin at the end: in float64 their last bit may differ."""
    options = AverageOptions(n_threads=n_threads)
    results = average_running(written, tmp_path / "running", options=options)
    expected = names_of(4)
    assert [result.path.name for result in results] == [name for name, _ in expected]
    assert sorted(os.listdir(tmp_path / "running")) == sorted(name for name, _ in expected)
    for result, (name, sources) in zip(results, expected, strict=True):
        alone = tmp_path / f"alone-{name}"
        average_checkpoints([written[i] for i in sources], alone)
        assert_same(result.path, alone, exactly=name.startswith("first"))
        assert result.digest == content_digest(result.path)
        assert read_metadata(result.path) == read_metadata(alone) == result.metadata


def test_one_checkpoint_makes_one_average(written, tmp_path):
    (result,) = average_running(written[:1], tmp_path / "running")
    assert result.path.name == "first-001.safetensors"
    assert bytes_of(result.path) == bytes_of(written[0])


def test_every_byte_is_read_once(written, tmp_path):
    counted = []
    options = AverageOptions(on_bytes=counted.append)
    results = average_running(written, tmp_path / "running", options=options)
    assert sum(counted) == results[0].bytes_read
    assert sum(counted) == sum(len(b) for path in written for b in bytes_of(path).values())


def test_sources_of_mixed_dtypes_are_averaged_where_the_output_is_said(checkpoints, tmp_path):
    dtypes = (np.float32, np.float64, np.float16)
    paths = checkpoints(*({"w": np.full(5, k, dtype)} for k, dtype in enumerate(dtypes)))
    options = AverageOptions(dtype="F32")
    results = average_running(paths, tmp_path / "running", options=options)
    for result, (_, sources) in zip(results, names_of(3), strict=True):
        with open_checkpoint(result.path) as checkpoint:
            np.testing.assert_array_equal(checkpoint.read("w"), np.full(5, np.mean(sources)))


def test_an_output_that_exists_is_an_error_before_anything_is_written(written, tmp_path):
    folder = tmp_path / "running"
    folder.mkdir()
    (folder / "last-002.safetensors").write_bytes(b"earlier")
    with pytest.raises(OutputError, match="last-002.safetensors: it exists already"):
        average_running(written, folder)
    assert os.listdir(folder) == ["last-002.safetensors"]
    average_running(written, folder, options=AverageOptions(force=True))
    assert len(os.listdir(folder)) == 7


def test_nan_in_one_source_is_an_error_and_nothing_appears(checkpoints, tmp_path):
    paths = checkpoints({"w": np.ones(3)}, {"w": np.full(3, np.nan)}, {"w": np.ones(3)})
    with pytest.raises(CheckpointError, match="001.safetensors: tensor 'w' holds NaN"):
        average_running(paths, tmp_path / "running")
    assert not any(name.endswith((".tmp", ".safetensors")) for name in os.listdir(tmp_path))
    with pytest.raises(CheckpointError, match="001.safetensors: there is NaN or Inf in .* 'w'"):
        list(iterate_running(paths))


@pytest.mark.parametrize("reverse", [False, True])
def test_iterating_gives_the_same_averages(written, tmp_path, reverse):
    average_running(written, tmp_path / "running")
    found = list(iterate_running(written, reverse=reverse))
    assert len(found) == 4
    for n, averages in enumerate(found[: 3 if reverse else 4], start=1):
        expected = bytes_of(
            tmp_path / f"running/{'last' if reverse else 'first'}-{n:03d}.safetensors"
        )
        assert averages.keys() == expected.keys()
        for name, array in averages.items():
            assert np.ascontiguousarray(array).tobytes() == expected[name], name


def test_iterated_arrays_are_the_callers_to_keep(checkpoints):
    paths = checkpoints(*({"w": np.full(3, float(k))} for k in (1, 3)))
    first, second = iterate_running(paths)
    assert first["w"].tolist() == [1, 1, 1]
    assert second["w"].tolist() == [2, 2, 2]


def test_a_complex_scalar_is_iterated(checkpoints):
    paths = checkpoints({"z": np.array(1 + 2j, np.complex64)})
    (found,) = iterate_running(paths)
    assert found["z"] == np.complex64(1 + 2j)
