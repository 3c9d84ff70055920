"""Pickles: plain ones are read as pickle reads them, and nothing in any of them is run."""

import collections
import contextlib
import datetime as dt
import fractions
import io
import os
import pathlib
import pickle
import struct
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swa_tools.checkpoints.foreign import inert_pickle
from swa_tools.checkpoints.foreign.inert import Global, Inert
from swa_tools.checkpoints.foreign.inert_pickle import BrokenPickleError, read_pickle
from swa_tools.checkpoints.foreign.rebuilding import REBUILD

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

keys = st.one_of(st.text(), st.integers(0, 2**16 - 1))
plain = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.text()),
        st.floats(allow_nan=False),
        st.binary(max_size=64),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(keys, inner),
        st.tuples(inner, inner),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(keys, inner).map(collections.OrderedDict),
    ),
    max_leaves=20,
)


def read(data, **options):
    return read_pickle(io.BytesIO(data), rebuild=options.pop("rebuild", REBUILD), **options)


@settings(max_examples=200, deadline=None)
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_are_those_that_pickle_reads(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


def test_what_is_referred_to_twice_is_one_object():
    inner = [1]
    loop = {"inner": inner, "again": inner}
    loop["itself"] = loop
    found = read(pickle.dumps(loop))
    assert found["inner"] is found["again"]
    assert found["itself"] is found


@pytest.mark.parametrize(
    ("pickled", "value"),
    [
        (b"(lp0\nI1\naI00\naI01\na.", [1, False, True]),
        (b"(dp0\nS'weight'\np1\nF0.5\ns.", {"weight": 0.5}),
        (b"\x80\x02}q\x00U\x06weightq\x01K\x02s.", {"weight": 2}),
        (b"\x80\x02U\x02\xc3\xa9.", "é"),
        (b"c__builtin__\ndict\n(tR.", {}),
        (b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'a'\naI1\naatR.", {"a": 1}),
    ],
)
def test_pickles_of_python_2_are_read(pickled, value):
    assert read(pickled) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.25), np.int64(-3), np.bool_(1)])
def test_numbers_of_numpy_are_read(number, protocol):
    assert read(pickle.dumps(number, protocol)) == number.item()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        pathlib.PurePosixPath("/a"),
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        fractions.Fraction(1, 3),
        np.arange(3),
        collections.deque([1, 2]),
        {1, 2},
        frozenset({1}),
        complex(1, 2),
        range(3),
        os.path.join,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_are_left_behind_and_what_is_beside_them_is_read(value, protocol):
    found = read(pickle.dumps({"before": 1, "it": value, "after": [2]}, protocol))
    assert (found["before"], found["after"]) == (1, [2])
    assert isinstance(found["it"], Inert | Global)


class Dictionary(dict):
    """A trainer's own kind of dict."""


def test_what_is_in_a_subclass_of_dict_is_kept():
    found = read(pickle.dumps(Dictionary(a=1)))
    assert isinstance(found, Inert)
    assert found.items == {"a": 1}


def attack(path):
    """Pickles that make a folder in Python's own unpickler, by every way to call something."""
    argument = str(path)
    text, binary = argument.encode(), struct.pack("<I", len(argument)) + argument.encode()
    call = b"X" + binary + b"\x85"
    return {
        "reduce": b"\x80\x02cposix\nmkdir\n" + call + b"R.",
        "reduce by stack global": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93" + call + b"R.",
        "reduce, nt and os": b"\x80\x02cos\nmkdir\n" + call + b"R.",
        "inst": b"(S'" + text + b"'\niposix\nmkdir\n.",
        "obj": b"\x80\x02(cposix\nmkdir\nX" + binary + b"o.",
        "builtins": b"\x80\x02cbuiltins\neval\nX"
        + struct.pack("<I", len(f"__import__('os').mkdir({argument!r})"))
        + f"__import__('os').mkdir({argument!r})".encode()
        + b"\x85R.",
        "dotted name": b"\x80\x04\x8c\x07pathlib\x8c\x0aPath.mkdir\x93\x8c\x07pathlib\x8c\x04Path"
        b"\x93" + call + b"R\x85R.",
        "nested": b"\x80\x02}X\x01\x00\x00\x00a(](cposix\nmkdir\n" + call + b"Rets.",
        "by the memo": b"\x80\x02cposix\nmkdir\nq\x000h\x00" + call + b"R.",
        "as a key": b"\x80\x02}cposix\nmkdir\n" + call + b"RK\x01s.",
        "in a state": b"\x80\x02cfractions\nFraction\n)Rcposix\nmkdir\n" + call + b"Rb.",
    }


@pytest.mark.parametrize("way", attack("x"))
def test_no_way_to_call_something_calls_it(tmp_path, way):
    proof = tmp_path / "it-ran"
    pickled = attack(proof)[way]
    read(pickled)
    assert not proof.exists()
    with contextlib.suppress(Exception):
        pickle.loads(pickled)
    assert proof.exists(), "the attack works nowhere, so that it shows nothing"


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02cswa_tools.checkpoints.foreign.inert_pickle\nInert\n)\x81}X\x04\x00\x00\x00nameK\x01sb.",
        b"\x80\x02cswa_tools.checkpoints.foreign.inert_pickle\nInert\n}X\x04\x00\x00\x00nameK\x01sb.",
        b"\x80\x02csys\nmodules\n}X\x01\x00\x00\x00xK\x01sb.",
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__K\x01sb.",
        b"\x80\x04cbuiltins\nobject\n)}\x92.",
    ],
)
def test_states_are_set_on_nothing(pickled):
    before = dict(vars(Inert))
    read(pickled)
    assert dict(vars(Inert)) == before
    assert "x" not in sys.modules


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"N",
        b"0.",
        b"t.",
        b"K\x01R.",
        b"\x85.",
        b"\x86.",
        b"h\x00.",
        b"K\x01K\x02s.",
        b"K\x01K\x02a.",
        b"}(K\x01u.",
        b"\x80\x02cx\ny\nK\x01R.",
        b"\x80\x04K\x01K\x02\x93.",
        b"\x82\x01.",
        b"\x97.",
        b"P0\n.",
        b"\x8a\x08\xff.",
        b"X\xff\xff\xff\xffabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"Ixyz\n.",
        b"S'abc\n.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"\x80\x09N.",
        b"collections\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89NtR.",
        b"\x80\x02c_codecs\nencode\n(K\x01tR.",
        b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02tR}K\x01]su.",
    ],
)
def test_a_damaged_pickle_is_an_error(pickled):
    with pytest.raises(BrokenPickleError):
        read(pickled)


def test_nothing_that_is_nested_deeply_exhausts_the_stack():
    deep = 200_000
    assert isinstance(read(b"\x80\x02N" + b"\x85" * deep + b"."), tuple)
    found = read(b"\x80\x02}N" + b"\x85" * deep + b"K\x01s.")
    assert len(found) == 1
    assert isinstance(read(b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b"."), list)


def text(characters):
    return b"X" + struct.pack("<I", len(characters)) + characters.encode()


@pytest.mark.parametrize(
    "keys",
    [
        [b"(" + b"K\x01" * 50_000 + b"t", *[b"h\x00"] * 50_000],
        [b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6, *[b"h\x00"] * 20_000],
        [b"\x8a\x0a" + (k * sys.hash_info.modulus).to_bytes(10, "little") for k in range(50_000)],
    ],
    ids=["a long tuple", "a huge number", "numbers that collide"],
)
def test_keys_that_take_long_to_be_hashed_are_left_behind(keys):
    first, *others = keys
    start = time.process_time()
    read(b"\x80\x02}" + first + b"q\x00Ns" + b"".join(key + b"Ns" for key in others) + b".")
    assert time.process_time() - start < 5  # minutes, if they were hashed


def test_keys_that_take_long_to_be_compared_are_refused():
    with pytest.raises(BrokenPickleError, match="a key of 20,000 characters"):
        read(b"\x80\x02}" + text("x" * 20_000) + b"Ns.")


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        ("collections\nOrderedDict", b"](" + (b"](K\x01Ne") * 10_000 + b"e"),
        ("collections\nOrderedDict", b"}(" + b"".join(b"I%d\nN" % k for k in range(10_000)) + b"u"),
        ("_codecs\nencode", text("x" * 1_000_000)),
    ],
)
def test_calls_do_not_copy_the_same_arguments_again_and_again(function, argument):
    call = b"h\x01h\x00\x85R"
    again = b"(" + argument + b"q\x00c" + function.encode() + b"\nq\x01" + call * 2000 + b"t."
    tracemalloc.start()
    read(b"\x80\x02" + again)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


def test_a_pickle_of_endless_instructions_ends(monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_STEPS", 1000)
    assert read(b"N" * 999 + b".") is None
    with pytest.raises(BrokenPickleError, match="more than 1,000 instructions"):
        read(b"N" * 1000 + b".")
