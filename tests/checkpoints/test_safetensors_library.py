"""Both ways with the safetensors library: it reads what is written here, and the reverse."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swa_tools.checkpoints import open_checkpoint, write_checkpoint
from swa_tools.checkpoints.dtypes import DTYPES, numpy_dtype, safetensors_dtype
from swa_tools.errors import CheckpointError

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PACKED = {"F4": (8,), "F6_E2M3": (4,), "F6_E3M2": (8,)}
UNPACKED = sorted(set(DTYPES) - set(PACKED))
ARRAYS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.sampled_from(["F64", "F32", "F16", "I64", "U8", "BOOL"]).flatmap(
        lambda dtype: hnp.arrays(numpy_dtype(dtype), hnp.array_shapes(min_dims=0, min_side=0))
    ),
    min_size=1,
    max_size=5,
)


def needs_library_with(dtype):
    """Skip where the installed library is older than a dtype of the format."""
    header = json.dumps({"w": {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}}).encode()
    try:
        safetensors.deserialize(len(header).to_bytes(8, "little") + header)
    except safetensors.SafetensorError:
        pytest.skip(f"safetensors {safetensors.__version__} has no {dtype}")


def random_bytes(n_bytes, dtype):
    return np.random.default_rng(0).integers(0, 2 if dtype == "BOOL" else 256, n_bytes, np.uint8)


def array_of(dtype, shape=(3, 5)):
    stored = numpy_dtype(dtype)
    n_bytes = int(np.prod(shape)) * stored.itemsize
    return random_bytes(n_bytes, dtype).view(stored).reshape(shape)


def as_bytes(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes()


def torch_bytes(tensor):
    return as_bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("dtype", sorted(TORCH_DTYPES))
def test_torch_reads_what_is_written_here(tmp_path, dtype):
    needs_library_with(dtype)
    array = array_of(dtype)
    write_checkpoint(tmp_path / "a.safetensors", {"w": array, "other": np.ones(1)}, None)
    loaded = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert loaded["w"].dtype == TORCH_DTYPES[dtype]
    assert loaded["w"].shape == array.shape
    assert torch_bytes(loaded["w"]) == as_bytes(array)


@pytest.mark.parametrize("dtype", sorted(TORCH_DTYPES))
def test_what_torch_writes_is_read_here(tmp_path, read_all, dtype):
    if TORCH_DTYPES[dtype] not in safetensors.torch._SIZE:
        pytest.skip(f"safetensors {safetensors.__version__} does not write {dtype}")
    tensor = torch.from_numpy(random_bytes(16 * 8, dtype)).view(TORCH_DTYPES[dtype])
    safetensors.torch.save_file(
        {"w": tensor, "other": torch.ones(3)}, tmp_path / "a.safetensors", {"format": "pt"}
    )
    found = read_all(tmp_path / "a.safetensors")["w"]
    assert safetensors_dtype(found.dtype) == dtype
    assert as_bytes(found) == torch_bytes(tensor)


@settings(deadline=None, max_examples=50)
@given(arrays=ARRAYS)
def test_any_arrays_go_both_ways(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("both-ways")
    write_checkpoint(folder / "ours.safetensors", arrays, None)
    safetensors.numpy.save_file(arrays, folder / "theirs.safetensors")
    theirs = safetensors.numpy.load_file(folder / "ours.safetensors")
    with open_checkpoint(folder / "theirs.safetensors") as checkpoint:
        ours = {name: checkpoint.read(name) for name in checkpoint.tensors}
    for found in (theirs, ours):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            assert as_bytes(found[name]) == as_bytes(array)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_both_agree_on_every_dtype_of_the_format(raw_file, dtype):
    needs_library_with(dtype)
    shape = PACKED.get(dtype, (3,))
    n_bytes = int(np.prod(shape)) * DTYPES[dtype].bits // 8
    path = raw_file(
        {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, n_bytes]}},
        random_bytes(n_bytes, dtype).tobytes(),
    )
    with safetensors.safe_open(path, "numpy") as theirs, open_checkpoint(path) as ours:
        assert theirs.get_slice("w").get_dtype() == ours.tensors["w"].dtype == dtype
        assert tuple(theirs.get_slice("w").get_shape()) == ours.tensors["w"].shape == shape
        assert ours.read_bytes("w") == random_bytes(n_bytes, dtype).tobytes()


@pytest.mark.parametrize("dtype", UNPACKED)
def test_numpy_has_an_array_of_every_dtype_that_is_not_packed(dtype):
    assert numpy_dtype(dtype).itemsize * 8 == DTYPES[dtype].bits
    assert safetensors_dtype(numpy_dtype(dtype)) == dtype


@pytest.mark.parametrize("dtype", sorted(PACKED))
def test_packed_dtypes_have_bytes_but_no_array(dtype):
    with pytest.raises(CheckpointError, match=f"dtype {dtype} is packed"):
        numpy_dtype(dtype)


def test_dtypes_that_the_format_lacks_are_refused(tmp_path):
    for array in (
        np.ones(2, np.complex128),
        np.array(["a"]),
        np.array([object()]),
        np.ones(1, "V4"),
    ):
        with pytest.raises(CheckpointError, match="safetensors has no dtype for NumPy's"):
            write_checkpoint(tmp_path / "a.safetensors", {"w": array}, None)
    assert not list(tmp_path.iterdir())


def test_the_dtypes_that_are_averaged_are_those_of_the_design():
    averaged = {name for name, info in DTYPES.items() if info.averaged}
    floats = {"F64", "F32", "F16", "BF16", "C64"}
    assert averaged == floats | {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(24, dtype=np.float32)[::-2],
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.arange(6, dtype=">f4"),
        np.arange(6, dtype=">i8").reshape(2, 3).T,
        np.float64(3.5),
        np.array(True),
        np.zeros((0, 3), np.float16),
        np.arange(4).astype(ml_dtypes.bfloat16)[::2],
    ],
    ids=["transposed", "strided", "fortran", "big", "big-T", "scalar", "bool", "empty", "bf16"],
)
def test_arrays_in_any_layout_and_byte_order_are_written_alike(tmp_path, array):
    write_checkpoint(tmp_path / "a.safetensors", {"w": np.asarray(array)}, None)
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")["w"]
    assert tuple(found.shape) == np.shape(array)
    expected = np.asarray(array).astype(np.float64)
    np.testing.assert_array_equal(found.to(torch.float64).numpy(), expected)


def test_metadata_is_what_the_library_reads(tmp_path):
    ties = {"head.weight": "embedding.weight"}
    arrays = {"embedding.weight": np.ones(2, np.float32)}
    write_checkpoint(tmp_path / "a.safetensors", arrays, None, ties=ties)
    with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt", **ties}


def test_tensors_tied_by_save_model_are_tied_here_and_load_with_load_model(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(3, 2)
            self.head = torch.nn.Linear(2, 3, bias=False)
            self.head.weight = self.embedding.weight

    model, other = Tied(), Tied()
    safetensors.torch.save_model(model, tmp_path / "theirs.safetensors")
    with open_checkpoint(tmp_path / "theirs.safetensors") as checkpoint:
        assert len(checkpoint.ties) == 1
        assert {*checkpoint.ties, *checkpoint.ties.values()} == set(model.state_dict())
        arrays = {name: checkpoint.read(name) for name in checkpoint.tensors}
        write_checkpoint(tmp_path / "ours.safetensors", arrays, None, ties=checkpoint.ties)
    assert safetensors.torch.load_model(other, tmp_path / "ours.safetensors") == (set(), [])
    torch.testing.assert_close(other.head.weight, model.head.weight, rtol=0, atol=0)


def test_a_header_of_ours_is_as_small_as_the_librarys(tmp_path):
    arrays = {f"layer.{i}": np.ones((2, 3), np.float32) for i in range(20)}
    write_checkpoint(tmp_path / "ours.safetensors", arrays, None)
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors", {"format": "pt"})
    ours, theirs = (tmp_path / f"{who}.safetensors" for who in ("ours", "theirs"))
    length = int.from_bytes(ours.read_bytes()[:8], "little")
    header = json.loads(ours.read_bytes()[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header.keys() == arrays.keys()
    assert ours.stat().st_size == theirs.stat().st_size


@pytest.mark.parametrize("blanks", [" ", "\n\t\r ", " " * 64])
def test_blanks_before_the_header_are_read_as_the_library_reads_them(tmp_path, blanks):
    if safetensors.__version__.startswith("0.5"):
        pytest.skip("safetensors 0.5 refuses them")
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = (blanks + json.dumps({"w": tensor})).encode()
    data = np.array([1, 2], np.float32)
    for name in ("x.safetensors", "x.bin"):
        path = tmp_path / name
        path.write_bytes(len(header).to_bytes(8, "little") + header + data.tobytes())
        np.testing.assert_array_equal(safetensors.numpy.load_file(path)["w"], data)
        with open_checkpoint(path) as checkpoint:
            np.testing.assert_array_equal(checkpoint.read("w"), data)
