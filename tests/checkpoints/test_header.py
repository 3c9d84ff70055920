"""Headers: what is valid is read, what is not is one clear error, and nothing hostile allocates."""

import json
import math
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swa_tools.checkpoints.dtypes import DTYPES
from swa_tools.checkpoints.header import (
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    TensorInfo,
    build_header,
    parse_header,
    tensor_bytes,
)
from swa_tools.errors import CheckpointError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SHAPES = st.lists(st.integers(0, 6), max_size=5).map(tuple)
LAYOUTS = st.dictionaries(
    NAMES.filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES),
    max_size=8,
)
METADATA = st.dictionaries(NAMES, NAMES, max_size=3)


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def parse(header, data_bytes=8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return parse_header(text, 8 + len(text) + data_bytes, where="x.safetensors")


def refusal(header, data_bytes=8):
    with pytest.raises(CheckpointError) as caught:
        parse(header, data_bytes)
    message = str(caught.value)
    assert message.startswith("x.safetensors: not a valid safetensors file: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message.partition("file: ")[2]


def whole_bytes(layout):
    return all(math.prod(shape) * DTYPES[dtype].bits % 8 == 0 for dtype, shape in layout.values())


@settings(deadline=None)
@given(layout=LAYOUTS, metadata=METADATA)
def test_header_comes_back_as_it_was_built(layout, metadata):
    assume(whole_bytes(layout))
    start, places = build_header(layout, metadata)
    text = start[8:]
    n_bytes = sum(tensor_bytes(dtype, shape) for dtype, shape in layout.values())
    assert int.from_bytes(start[:8], "little") == len(text)
    header = parse_header(text, len(start) + n_bytes, where="x")
    assert header.tensors == places
    assert header.metadata == metadata
    assert header.first == len(start)
    assert {name: (info.dtype, info.shape) for name, info in places.items()} == layout


@given(layout=LAYOUTS)
def test_every_tensor_is_aligned_to_its_elements(layout):
    assume(whole_bytes(layout))
    start, places = build_header(layout, {})
    assert len(start) % 8 == 0
    for info in places.values():
        assert info.start % max(DTYPES[info.dtype].bits // 8, 1) == 0


@given(layout=LAYOUTS, metadata=METADATA)
def test_layout_does_not_depend_on_the_order_of_the_tensors(layout, metadata):
    backwards = dict(reversed(layout.items()))
    assert build_header(layout, metadata) == build_header(backwards, metadata)


def test_tensors_come_in_the_order_of_their_bytes():
    header = parse({"a": tensor(offsets=(8, 16)), "b": tensor(offsets=(0, 8))}, data_bytes=16)
    assert list(header.tensors) == ["b", "a"]
    assert header.tensors["b"] == TensorInfo("F32", (2,), 0, 8)


def test_empty_tensors_may_stand_anywhere():
    header = parse(
        {
            "a": tensor(shape=(0,), offsets=(0, 0)),
            "b": tensor(),
            "c": tensor(shape=(3, 0), offsets=(8, 8)),
        }
    )
    assert list(header.tensors) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": None, "w": tensor()},
        {"w": {**tensor(), "more": [1, {"a": None}]}},
        json.dumps({"w": tensor()}).encode() + b" " * 100,
    ],
)
def test_what_the_library_reads_is_read(header):
    assert parse(header).tensors == {"w": TensorInfo("F32", (2,), 0, 8)}
    assert parse(header).metadata == {}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "does not begin with '{'"),
        (b"[]", "does not begin with '{'"),
        (b' "w": 1}', "does not begin with '{'"),
        (b"{", "not valid JSON"),
        (b"{'w': 1}", "not valid JSON"),
        (b'{"w": 1} x', "not valid JSON"),
        (b'{"\xff": 1}', "not UTF-8"),
        (b'{"w": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"\\ud800": 1}', "a name in its header is not valid Unicode"),
        ({"__metadata__": {"a": "\ud800"}}, "not valid Unicode"),
        ({"__metadata__": {"a": 1}, "w": tensor()}, "__metadata__ is not an object of strings"),
        ({"__metadata__": [], "w": tensor()}, "__metadata__ is not an object of strings"),
        ({"__metadata__": "", "w": tensor()}, "__metadata__ is not an object of strings"),
        ({"w": 1}, "tensor 'w': expected dtype, shape and data_offsets"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "expected dtype, shape and data_offsets"),
        ({"w": tensor(dtype="F33")}, "tensor 'w': unknown dtype 'F33'"),
        ({"w": tensor(dtype=32)}, "unknown dtype 32"),
        ({"w": tensor(dtype=["F32"])}, r"unknown dtype \['F32'\]"),
        ({"w": tensor(shape=(-2,))}, r"its shape is no list of sizes: \[-2\]"),
        ({"w": tensor(shape=(2.0,))}, r"its shape is no list of sizes: \[2.0\]"),
        ({"w": tensor(shape=(True, 2))}, "its shape is no list of sizes"),
        ({"w": {**tensor(), "shape": 2}}, "its shape is no list of sizes: 2"),
        ({"w": {**tensor(), "shape": None}}, "its shape is no list of sizes"),
        ({"w": tensor(shape=(2**63,))}, "its shape is no list of sizes"),
        ({"w": tensor(shape=[1] * (MAX_DIMENSIONS + 1))}, "its shape is no list of sizes"),
        ({"w": tensor(shape=(2**40, 2**40))}, "its shape is too large"),
        ({"w": tensor(shape=(2**40, 2**40, 0), offsets=(0, 0))}, "its shape is too large"),
        ({"w": tensor(shape=(2**62,))}, "its shape is too large"),
        ({"w": tensor(offsets=(0,))}, "data_offsets is no pair"),
        ({"w": tensor(offsets=(0, 4, 8))}, "data_offsets is no pair"),
        ({"w": tensor(offsets=(-8, 0))}, "data_offsets is no pair"),
        ({"w": tensor(offsets=(0, 2**64))}, "data_offsets is no pair"),
        ({"w": tensor(offsets=("0", "8"))}, "data_offsets is no pair"),
        ({"w": tensor(offsets=(8, 0))}, r"F32 of shape \[2\] takes 8 bytes, its offsets leave -8"),
        ({"w": tensor(shape=(3,))}, r"F32 of shape \[3\] takes 12 bytes, its offsets leave 8"),
        ({"w": tensor("F4", (3,), (0, 2))}, "its bits do not fill whole bytes"),
        ({"a": tensor(), "b": tensor()}, "tensor 'b': it overlaps the one before"),
        ({"a": tensor(), "b": tensor(offsets=(4, 12))}, "tensor 'b': it overlaps"),
        ({"w": tensor(offsets=(4, 12))}, "it leaves a hole: expected offset 0, found 4"),
        ({"a": tensor(), "b": tensor(offsets=(12, 20))}, "tensor 'b': it leaves a hole"),
        ({}, "its tensors take 0 bytes, the file has 8 for them$"),
        ({"w": tensor(shape=(1,), offsets=(0, 4))}, "take 4 bytes, the file has 8"),
        ({"w": tensor(shape=(4,), offsets=(0, 16))}, r"file has 8 for them \(cut off while"),
    ],
)
def test_a_malformed_header_is_refused_with_its_reason(header, message):
    found = refusal(header)
    assert re.search(message, found), found


def test_duplicate_keys_are_refused_and_named():
    one = json.dumps(tensor())
    assert "the key 'w' stands in it twice" in refusal(f'{{"w": {one}, "w": {one}}}'.encode())
    twice = b'{"w": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}'
    assert "the key 'dtype' stands in it twice" in refusal(twice)


def test_names_and_values_as_long_as_the_header_are_shortened_in_the_message():
    long = "a" * 1_000_000
    for header in (
        {long: 1},
        {"w": tensor(dtype=long)},
        {"w": {**tensor(), "shape": [long]}},
        {"w": {**tensor(), "data_offsets": [long] * 10}},
        f'{{"{long}": 1, "{long}": 2}}'.encode(),
    ):
        assert refusal(header)


@pytest.mark.parametrize("depth", [10, 100, 500, 900, 950, 980, 1000, 5000])
@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_a_deep_value_in_any_field_is_refused(depth, field):
    text = json.dumps({"w": {**tensor(), field: "@"}}).replace('"@"', "[" * depth + "]" * depth)
    assert refusal(text.encode())


@settings(deadline=None)
@given(text=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_header_or_a_clear_error(text):
    message = ""
    try:
        parse(b"{" + text)
    except CheckpointError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_a_tensor_called_metadata_cannot_be_written():
    with pytest.raises(CheckpointError, match="no tensor of the name '__metadata__'"):
        build_header({"__metadata__": ("F32", (1,))}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least 8 bytes, found 0"),
        (b"1234567", "expected at least 8 bytes, found 7"),
        (b"\0" * 8, "does not begin with '{'"),
        ((10).to_bytes(8, "little") + b"{}", "claims 10 bytes, but only 2 follow .cut off"),
        ((10**10).to_bytes(8, "little") + b"{}", "claims 10000000000 bytes, the format allows"),
        (b"\xff" * 8 + b"{}", "claims 18446744073709551615 bytes, the format allows 100 MB"),
    ],
)
def test_a_wrong_length_is_refused(tmp_path, read_all, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_all(path)


def test_every_cut_of_a_file_is_refused(tmp_path, read_all, raw_file):
    content = raw_file({"w": tensor()}, b"\0" * 8).read_bytes()
    path = tmp_path / "cut.safetensors"
    for n_bytes in range(len(content)):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(CheckpointError, match="cut.safetensors: not a valid safetensors"):
            read_all(path)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_all(path)["w"], [0, 0])


@pytest.mark.parametrize("length", [10**10, 2**62, MAX_HEADER_BYTES + 1])
def test_a_header_that_claims_too_much_allocates_nothing(tmp_path, length):
    """The file is as large as it claims, all holes; reading it must not need 64 MB more."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{")
    with path.open("r+b") as file:
        file.truncate(min(length, 10**10) + 8)
    script = textwrap.dedent("""
        import resource, sys
        from swa_tools.checkpoints import open_checkpoint
        from swa_tools.errors import CheckpointError

        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 64_000_000,) * 2)
        try:
            open_checkpoint(sys.argv[1])
        except CheckpointError as error:
            print(error)
    """)
    if not sys.platform.startswith("linux"):
        pytest.skip("/proc is Linux's")
    finished = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=False
    )
    assert "the format allows 100 MB" in finished.stdout, finished.stderr
