"""The numbers: bit-equal to a float64 sum over n and one conversion as torch's `.to` makes it."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swa_tools.averaging import (
    AverageOptions,
    Ema,
    Interpolate,
    Uniform,
    Weights,
    average_checkpoints,
    iterate_average,
    open_all,
    plan_average,
    run_average,
)
from swa_tools.checkpoints import content_digest, open_checkpoint, write_checkpoint
from swa_tools.errors import CheckpointError

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
REAL = sorted(set(TORCH) - {"C64"})
FLOAT8 = [name for name in REAL if name.startswith("F8")]


def finite_numbers(dtype, shape, seed):
    """Draw random bit patterns of a dtype, NaN and Inf replaced by 1: every exponent occurs."""
    stored = np.dtype(NUMPY[dtype])
    n_bytes = int(np.prod(shape)) * stored.itemsize
    bits = np.random.default_rng(seed).integers(0, 256, n_bytes, np.uint8)
    numbers = bits.view(np.float32 if dtype == "C64" else stored)
    with np.errstate(all="ignore"):
        numbers = np.where(np.isfinite(numbers), numbers, np.ones_like(numbers))
    if dtype in ("F64", "F32", "C64"):  # so that the sum of a few is finite too
        numbers = numbers / 64
    return numbers.astype(numbers.dtype).view(stored).reshape(shape)


def as_float64(array):
    if array.dtype == np.complex64:
        return array.reshape(-1).view(np.float32).astype(np.float64)
    return array.reshape(-1).astype(np.float64)


def expected(arrays, dtype, factors=None):
    """Sum in float64 in order, divide, convert by torch; return the bytes."""
    factors = factors or [1.0] * len(arrays)
    total = as_float64(arrays[0]) * factors[0]
    for array, factor in zip(arrays[1:], factors[1:], strict=True):
        total = total + as_float64(array) * factor
    mean = torch.from_numpy(total / np.float64(sum(factors)))
    if dtype == "C64":
        mean = torch.view_as_complex(mean.reshape(-1, 2))
    return torch_bytes(mean.to(TORCH[dtype]))


def torch_bytes(tensor):
    return tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def as_bytes(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes()


@pytest.mark.parametrize("dtype", sorted(TORCH))
@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 6), shape=st.sampled_from([(), (0,), (7,), (3, 5, 2)]), seed=st.integers(0))
def test_average_is_the_float64_mean_converted_once(tmp_path_factory, dtype, n, shape, seed):
    folder = tmp_path_factory.mktemp("average")
    arrays = [finite_numbers(dtype, shape, (seed, k)) for k in range(n)]
    paths = [folder / f"{k}.safetensors" for k in range(n)]
    for path, array in zip(paths, arrays, strict=True):
        write_checkpoint(path, {"w": array}, None)
    average_checkpoints(paths, folder / "out.safetensors")
    with open_checkpoint(folder / "out.safetensors") as checkpoint:
        assert checkpoint.tensors["w"].dtype == dtype
        assert checkpoint.tensors["w"].shape == shape
        assert checkpoint.read_bytes("w") == expected(arrays, dtype)


@pytest.mark.parametrize("dtype", sorted(TORCH))
@pytest.mark.parametrize("n_elements", [65535, 65536, 65537, 3 * 65536 + 1])
def test_average_over_several_blocks(checkpoints, average, dtype, n_elements):
    arrays = [finite_numbers(dtype, (n_elements,), k) for k in range(3)]
    paths = checkpoints(*({"a": array[:5], "w": array} for array in arrays))
    assert as_bytes(average(paths)["w"]) == expected(arrays, dtype)


def all_codes(dtype):
    """Return every number that a narrow dtype can hold."""
    width = np.uint16 if np.dtype(NUMPY[dtype]).itemsize == 2 else np.uint8
    codes = np.arange(np.iinfo(width).max + 1).astype(width).view(NUMPY[dtype])
    with np.errstate(invalid="ignore"):
        return codes[np.isfinite(codes)]


@pytest.mark.parametrize("dtype", ["F16", "BF16", *FLOAT8])
def test_average_of_one_checkpoint_is_itself_for_every_code(checkpoints, average, dtype):
    codes = all_codes(dtype)
    assert as_bytes(average(checkpoints({"w": codes}))["w"]) == as_bytes(codes)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("target", REAL)
def test_every_16_bit_code_is_converted_as_torch_does(checkpoints, average, dtype, target):
    codes = all_codes(dtype)
    largest = float(ml_dtypes.finfo(NUMPY[target]).max)
    codes = codes[np.abs(codes.astype(np.float64)) <= largest]
    found = average(checkpoints({"w": codes}), dtype=target)["w"]
    reference = torch.from_numpy(codes.astype(np.float64)).to(TORCH[target])
    assert as_bytes(found) == torch_bytes(reference)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_tie_between_neighbours_is_rounded_as_torch_does(checkpoints, average, dtype):
    """The mean of two neighbouring codes lies exactly between them."""
    codes = np.sort(all_codes(dtype).astype(np.float64)).astype(NUMPY[dtype])
    pair = codes[:-1], codes[1:]
    found = average(checkpoints(*({"w": array} for array in pair)))["w"]
    assert as_bytes(found) == expected(pair, dtype)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_the_mean_of_any_two_float8_codes_is_that_of_torch(checkpoints, average, dtype):
    codes = all_codes(dtype)
    pair = np.repeat(codes, len(codes)), np.tile(codes, len(codes))
    found = average(checkpoints(*({"w": array} for array in pair)))["w"]
    assert as_bytes(found) == expected(pair, dtype)


@pytest.mark.parametrize("dtype", sorted(TORCH))
@settings(deadline=None, max_examples=10)
@given(factors=st.lists(st.floats(2**-6, 8), min_size=2, max_size=5), seed=st.integers(0))
def test_weighted_average_is_the_weighted_float64_sum(tmp_path_factory, dtype, factors, seed):
    folder = tmp_path_factory.mktemp("weighted")
    arrays = [finite_numbers(dtype, (9,), (seed, k)) for k in range(len(factors))]
    if dtype != "F64":  # a sum of other factors may round differently from math.fsum
        factors = [np.float64(np.float16(factor)) for factor in factors]
    else:
        factors = [2.0**k for k in range(len(factors))]
    for k, array in enumerate(arrays):
        write_checkpoint(folder / f"{k}.safetensors", {"w": array}, None)
    paths = [folder / f"{k}.safetensors" for k in range(len(factors))]
    options = AverageOptions(weighting=Weights(factors))
    average_checkpoints(paths, folder / "out.safetensors", options=options)
    with open_checkpoint(folder / "out.safetensors") as checkpoint:
        assert checkpoint.read_bytes("w") == expected(arrays, dtype, factors)


def test_a_checkpoint_of_weight_zero_does_not_count(checkpoints, average):
    paths = checkpoints({"w": np.ones(3)}, {"w": np.full(3, 1e300)}, {"w": np.full(3, 3.0)})
    found = average(paths, weighting=Weights((1, 0, 1)))["w"]
    np.testing.assert_array_equal(found, [2, 2, 2])


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_ema_is_its_recursion(checkpoints, average, states, decay):
    written = states(5)
    paths = checkpoints(*written)
    for state in written:
        state["index"] = written[0]["index"]
    mean = written[0]["conv.weight"].astype(np.float64)
    for state in written[1:]:
        mean = decay * mean + (1 - decay) * state["conv.weight"].astype(np.float64)
    found = average(paths, weighting=Ema(decay))["conv.weight"]
    np.testing.assert_allclose(found, mean, rtol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_interpolation_goes_from_the_first_to_the_second(checkpoints, average, t):
    first, second = np.array([1.0, -2.0]), np.array([5.0, 2.0])
    found = average(checkpoints({"w": first}, {"w": second}), weighting=Interpolate(t))["w"]
    np.testing.assert_array_equal(found, (1 - t) * first + t * second)


def test_extrapolation_beyond_both_where_negative_factors_are_allowed(checkpoints, average):
    paths = checkpoints({"w": np.array([1.0])}, {"w": np.array([3.0])})
    assert average(paths, weighting=Interpolate(1.5, allow_negative=True))["w"] == [4.0]
    found = average(paths, weighting=Weights((-1, 3), allow_negative=True))["w"]
    np.testing.assert_array_equal(found, [4.0])


def test_bfloat16_is_not_summed_in_bfloat16(checkpoints, average):
    """In bfloat16 the sum of 40 ones and anything smaller than 1/8 stays 40."""
    ones = {"w": np.ones(4, ml_dtypes.bfloat16)}
    small = {"w": np.full(4, 2**-7, ml_dtypes.bfloat16)}
    found = average(checkpoints(*[ones] * 40, *[small] * 40))["w"]
    np.testing.assert_array_equal(found.astype(np.float64), np.full(4, (1 + 2**-7) / 2))


@pytest.mark.parametrize("n_threads", [2, 4, 9])
def test_the_same_inputs_give_the_same_bytes_on_any_number_of_threads(
    tmp_path, checkpoints, n_threads
):
    generator = np.random.default_rng(0)
    written = [
        {
            f"w{i}": generator.normal(size=n).astype(dtype)
            for i, (n, dtype) in enumerate(
                [(300_000, np.float32), (70_000, np.float16), (3, np.float64), (200_000, "?")]
            )
        }
        for _ in range(3)
    ]
    for state in written:
        state["w3"] = written[0]["w3"]
    paths = checkpoints(*written)
    outputs = []
    for threads in (1, n_threads):
        output = tmp_path / "out.safetensors"
        options = AverageOptions(n_threads=threads, force=True)
        average_checkpoints(paths, output, options=options)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]


def test_counters_come_from_the_last_and_other_integers_are_kept(checkpoints, average, states):
    written = states(3)
    found = average(checkpoints(*written))
    assert found["bn.num_batches_tracked"] == 300
    np.testing.assert_array_equal(found["index"], written[0]["index"])
    np.testing.assert_array_equal(found["mask"], [True, False])


@pytest.mark.parametrize("name", ["index", "mask"])
def test_integers_and_booleans_that_differ_are_an_error_that_names_them(checkpoints, average, name):
    one, other = {"w": np.ones(2)}, {"w": np.ones(2)}
    one[name] = np.array([1, 0, 1], bool if name == "mask" else np.int32)
    other[name] = one[name].copy()
    other[name][2] = 0
    paths = checkpoints(one, one, other)
    with pytest.raises(CheckpointError, match=f"002.safetensors: tensor '{name}' .* differs from"):
        average(paths)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"])
def test_packed_formats_must_be_equal(tmp_path, dtype):
    def write(name, byte):
        n = 8 * 70_000
        bits = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8}[dtype]
        data = bytearray(n * bits // 8)
        data[-1] = byte
        header = f'{{"w":{{"dtype":"{dtype}","shape":[{n}],"data_offsets":[0,{len(data)}]}}}}'
        path = tmp_path / name
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)
        return path

    a, b, c = (
        write(f"{name}.safetensors", byte) for name, byte in zip("abc", (1, 1, 2), strict=True)
    )
    average_checkpoints([a, b], tmp_path / "out.safetensors")
    assert content_digest(tmp_path / "out.safetensors") == content_digest(a)
    with pytest.raises(CheckpointError, match=f"c.safetensors: tensor 'w' .{dtype}. cannot be"):
        average_checkpoints([a, c], tmp_path / "other.safetensors")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "C64", "F8_E5M2"])
def test_nan_and_inf_are_an_error_that_names_checkpoint_and_tensor(
    checkpoints, average, tmp_path, bad, dtype
):
    good, broken = np.ones(70_000, NUMPY[dtype]), np.ones(70_000, NUMPY[dtype])
    broken[69_999] = bad
    paths = checkpoints({"a": good, "w": good}, {"a": good, "w": broken}, {"a": good, "w": good})
    with pytest.raises(CheckpointError, match="001.safetensors: tensor 'w' holds NaN or Inf"):
        average(paths)
    assert not (tmp_path / "out.safetensors").exists()
    found = average(paths, allow_nonfinite=True)["w"]
    assert np.isfinite(found[:-1]).all()
    assert not np.isfinite(found[-1])


def test_infinities_that_cancel_are_an_error_too(checkpoints, average):
    paths = checkpoints({"w": np.array([np.inf])}, {"w": np.array([-np.inf])})
    with pytest.raises(CheckpointError, match="000.safetensors: tensor 'w' holds NaN or Inf"):
        average(paths)


def test_an_average_that_its_dtype_cannot_hold_is_an_error(checkpoints, average):
    paths = checkpoints({"w": np.array([1e6])}, {"w": np.array([1e6])})
    with pytest.raises(CheckpointError, match="tensor 'w': its average does not fit into F16"):
        average(paths, dtype="F16")


def test_digests_are_those_of_the_files(checkpoints, tmp_path, states):
    paths = checkpoints(*states(3))
    result = average_checkpoints(paths, tmp_path / "out.safetensors")
    assert result.digest == content_digest(tmp_path / "out.safetensors")
    found = [source.digest for source in result.metadata.average.sources]
    assert found == [content_digest(path) for path in paths]


def test_digest_of_a_converted_average_is_that_of_its_file(checkpoints, tmp_path):
    paths = checkpoints({"w": np.arange(70_000.0)}, {"w": np.ones(70_000)})
    options = AverageOptions(dtype="BF16")
    result = average_checkpoints(paths, tmp_path / "out.safetensors", options=options)
    assert result.digest == content_digest(tmp_path / "out.safetensors")
    assert [source.digest for source in result.metadata.average.sources] == [
        content_digest(path) for path in paths
    ]


def test_iterating_gives_the_arrays_of_the_file(checkpoints, average, states):
    paths = checkpoints(*states(3))
    with open_all(paths) as opened:
        iterated = dict(iterate_average(plan_average(opened, Uniform())))
    written = average(paths)
    assert iterated.keys() == written.keys()
    for name, array in written.items():
        assert iterated[name].dtype == array.dtype
        assert iterated[name].shape == array.shape
        assert as_bytes(iterated[name]) == as_bytes(array)


def test_progress_counts_every_byte_once(checkpoints, tmp_path):
    paths = checkpoints(*({"w": np.ones(200_000), "n": np.array(1)} for _ in range(3)))
    counted = []
    options = AverageOptions(advance=counted.append)
    result = average_checkpoints(paths, tmp_path / "out.safetensors", options=options)
    assert sum(counted) == result.bytes_read == 3 * (200_000 * 8 + 8)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_error_of_any_thread_ends_the_run(checkpoints, n_threads):
    paths = checkpoints({"w": np.ones(1_000_000)}, {"w": np.ones(1_000_000)})
    seen = itertools.count()

    def sink(_tensor, _offset, _data):
        if next(seen) == 5:
            raise ZeroDivisionError("in the sink")

    with open_all(paths) as opened, pytest.raises(ZeroDivisionError, match="in the sink"):
        run_average(plan_average(opened, Uniform()), sink, n_threads=n_threads)
    assert next(seen) < 15
