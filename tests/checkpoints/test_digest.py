"""The digest, against its definition written down a second time."""

import ml_dtypes
import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swa_tools.checkpoints import content_digest, write_checkpoint

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "u1", "BOOL": "?"}
ARRAYS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(sorted(NUMPY)).flatmap(
        lambda name: hnp.arrays(NUMPY[name], hnp.array_shapes(min_dims=0, min_side=0))
    ),
    min_size=1,
    max_size=4,
)


def digest_by_definition(arrays, names):
    """One line a tensor: name, dtype, shape and the sum of its blocks' hashes."""
    lines = b""
    for name, array in sorted(arrays.items()):
        flat, total = array.reshape(-1), 0
        for number in range(-(-flat.size // 65536)):
            block = flat[number * 65536 : (number + 1) * 65536].tobytes()
            total += int.from_bytes(xxhash.xxh3_128(block, seed=number).digest(), "big")
        shape = "[" + ", ".join(str(n) for n in array.shape) + "]"
        fields = [name, names[array.dtype], shape, format(total % 2**128, "032x")]
        lines += "\0".join(fields).encode() + b"\n"
    return "xxh3-128:" + xxhash.xxh3_128(lines).hexdigest()


@settings(deadline=None, max_examples=50)
@given(arrays=ARRAYS)
def test_digest_is_what_its_definition_says(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("digest") / "a.safetensors"
    write_checkpoint(path, arrays, None)
    names = {np.dtype(dtype): name for name, dtype in NUMPY.items()}
    assert content_digest(path) == digest_by_definition(arrays, names)


@pytest.mark.parametrize("n", [65535, 65536, 65537, 200_001])
@pytest.mark.parametrize("dtype", [np.float64, np.uint8, ml_dtypes.bfloat16])
def test_digest_of_a_tensor_of_several_blocks(tmp_path, n, dtype):
    array = np.random.default_rng(0).integers(0, 100, n).astype(dtype)
    write_checkpoint(tmp_path / "a.safetensors", {"w": array}, None)
    names = {
        np.dtype(np.float64): "F64",
        np.dtype(np.uint8): "U8",
        np.dtype(ml_dtypes.bfloat16): "BF16",
    }
    expected = digest_by_definition({"w": array}, names)
    assert content_digest(tmp_path / "a.safetensors") == expected


def test_digest_does_not_depend_on_the_format_or_the_metadata(tmp_path, sharded):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3), "c": np.ones(1, np.float16)}
    write_checkpoint(tmp_path / "a.safetensors", arrays, None)
    expected = content_digest(tmp_path / "a.safetensors")
    write_checkpoint(tmp_path / "b.safetensors", arrays, None, ties={"d": "a"})
    tensors = {f"module.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(tensors, tmp_path / "c.pth")
    torch.save({"state_dict": tensors}, tmp_path / "d.pth", _use_new_zipfile_serialization=False)
    index = sharded(tmp_path / "shards", [["a"], ["c", "b"]], arrays)
    for path in (*(tmp_path / name for name in ("b.safetensors", "c.pth", "d.pth")), index):
        assert content_digest(path) == expected


def test_every_change_changes_the_digest(tmp_path):
    base = {"a": np.zeros(70_000, np.float32), "b": np.arange(4, dtype=np.int32)}
    swapped = base["a"].copy()
    swapped[0], swapped[65536] = 1, 2
    other = base["a"].copy()
    other[0], other[65536] = 2, 1
    variants = [
        base,
        {**base, "a": swapped},
        {**base, "a": other},
        {**base, "a": base["a"].reshape(2, -1)},
        {**base, "b": base["b"].view(np.uint32)},
        {**base, "b": base["b"].view(np.float32)},
        {"a": base["a"], "c": base["b"]},
        {"b": base["a"], "a": base["b"]},
        {"a": base["a"]},
        {**base, "c": np.zeros(0)},
        {**base, "a": -base["a"]},
    ]
    digests = set()
    for number, arrays in enumerate(variants):
        write_checkpoint(tmp_path / f"{number}.safetensors", arrays, None)
        digests.add(content_digest(tmp_path / f"{number}.safetensors"))
    assert len(digests) == len(variants)


def test_digest_of_packed_tensors_counts_blocks_of_elements(tmp_path, raw_file):
    n_elements = 65536 * 2 + 8
    data = np.random.default_rng(0).integers(0, 256, n_elements * 6 // 8, np.uint8).tobytes()
    header = {"w": {"dtype": "F6_E2M3", "shape": [n_elements], "data_offsets": [0, len(data)]}}
    block = 65536 * 6 // 8
    total = sum(
        xxhash.xxh3_128_intdigest(data[i * block : (i + 1) * block], seed=i) for i in range(3)
    )
    line = f"w\0F6_E2M3\0[{n_elements}]\0{total % 2**128:032x}\n"
    expected = "xxh3-128:" + xxhash.xxh3_128_hexdigest(line.encode())
    assert content_digest(raw_file(header, data)) == expected
