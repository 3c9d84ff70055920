"""Records: one JSON line each, appended whole, read back as they were."""

import dataclasses
import json
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.errors import OutputError, SwaToolsError
from swa_tools.records import Record, append_records, read_records

STEP = Record(event="step", step=1, epoch=0.5, lr=0.001, train_loss=2.5)
EPOCH = Record(event="epoch", epoch=1.0, top1=61.25, split="val", n_samples=1000)
SCORE = Record(
    event="evaluation", checkpoint="swa.safetensors", digest="xxh3-128:00", kind="average"
)

NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.none() | st.integers(-(2**70), 2**70)
TEXTS = st.none() | st.text()
VALUES = {"str | None": TEXTS, "int | None": COUNTS, "float | None": NUMBERS}
RECORDS = st.builds(
    Record,
    event=st.sampled_from(["step", "epoch", "evaluation"]),
    **{
        field.name: VALUES[str(field.type)]
        for field in dataclasses.fields(Record)
        if field.name != "event"
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


@given(records=st.lists(RECORDS, max_size=5), more=st.lists(RECORDS, max_size=3))
def test_records_come_back_as_they_were_written(tmp_path_factory, records, more):
    path = tmp_path_factory.mktemp("records") / "results.jsonl"
    path.touch()
    append_records(path, records)
    append_records(path, more)
    assert list(read_records(path)) == records + more


def test_a_record_is_one_line_without_the_fields_that_are_not_set():
    assert STEP.to_json() == (
        '{"event": "step", "epoch": 0.5, "step": 1, "lr": 0.001, "train_loss": 2.5}'
    )


@given(text=st.text())
def test_no_text_breaks_the_line(text):
    line = Record(event="step", command=text).to_json()
    assert line.isascii()
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_written_as_null(path, value):
    append_records(path, [Record(event="step", step=1, train_loss=value)])
    assert json.loads(path.read_bytes())["train_loss"] is None
    assert list(read_records(path)) == [Record(event="step", step=1)]


def test_nan_of_another_writer_is_not_set(path):
    path.write_text('{"event": "step", "train_loss": NaN, "top1": 1e999}\n')
    assert list(read_records(path)) == [Record(event="step")]


def test_appending_nothing_makes_no_file(path):
    append_records(path, [])
    assert not path.exists()


def test_fields_of_a_newer_version_are_ignored(path):
    path.write_text('{"event": "epoch", "epoch": 1, "top_10": 99.5, "nested": {"a": [1]}}\n')
    (record,) = read_records(path)
    assert record == Record(event="epoch", epoch=1.0)
    assert type(record.epoch) is float


@pytest.mark.parametrize("cut", range(1, len(SCORE.to_json()) + 1))
def test_a_line_that_was_cut_off_hides_nothing_and_swallows_nothing(path, cut):
    append_records(path, [STEP, SCORE])
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [STEP, SCORE] if cut == 1 else [STEP]
    assert list(read_records(path)) == whole
    append_records(path, [EPOCH])
    assert list(read_records(path)) == [*whole, EPOCH]


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 9000])
def test_a_long_line_that_was_cut_off_is_removed(path, size):
    append_records(path, [STEP])
    with open(path, "ab") as file:
        file.write(Record(event="step", command="x" * 20000).to_json().encode()[:size])
    append_records(path, [EPOCH])
    assert list(read_records(path)) == [STEP, EPOCH]


def test_a_cut_in_the_middle_of_a_character_is_a_cut(path):
    path.write_bytes(STEP.to_json().encode() + b'\n{"event": "epoch", "command": "\xc5')
    assert list(read_records(path)) == [STEP]


def test_a_first_line_that_was_cut_off_leaves_no_records(path):
    path.write_bytes(b'{"eve')
    assert list(read_records(path)) == []
    append_records(path, [EPOCH])
    assert list(read_records(path)) == [EPOCH]


def test_appending_spares_a_file_of_something_else(path):
    path.write_text("notes that somebody\nwants to keep")
    with pytest.raises(SwaToolsError, match="expected a file of records, found 'wants to keep'"):
        append_records(path, [STEP])
    assert path.read_text() == "notes that somebody\nwants to keep"


def test_line_separators_of_unicode_are_no_ends_of_lines(path):
    path.write_text('{"event": "step", "command": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert list(read_records(path)) == [Record(event="step", command="a\u2028b\x85c")]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"null",
        b"[]",
        b'"event"',
        b"{}",
        b'{"event": "other"}',
        b'{"event": ["step"]}',
        b'{"event": "step", "top1": "high"}',
        b'{"event": "step", "top1": [1]}',
        b'{"event": "step", "step": 1.5}',
        b'{"event": "step", "step": true}',
        b'{"event": "step", "lr": false}',
        b'{"event": "step", "checkpoint": 3}',
        b'{"event": "step", "lr": 1' + b"0" * 400 + b"}",
        b'{"event": "step", "step": 1' + b"0" * 5000 + b"}",
        b'{"event": "step", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"event": "step"} {"event": "step"}',
        b'{"event": "step", "command": "\xff"}',
    ],
)
def test_a_line_that_is_no_record_is_named(path, line):
    path.write_bytes(STEP.to_json().encode() + b"\n" + line + b"\n")
    with pytest.raises(SwaToolsError, match="results.jsonl, line 2: not a record: ") as caught:
        list(read_records(path))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


@given(data=st.binary() | JSON.map(lambda value: json.dumps(value).encode() + b"\n"))
def test_any_content_is_records_or_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("records") / "results.jsonl"
    path.write_bytes(data)
    try:
        before = list(read_records(path))
        append_records(path, [STEP])
    except SwaToolsError:
        return
    assert list(read_records(path)) == [*before, STEP]


@given(values=st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Record)]), JSON))
def test_fields_have_their_types_or_the_line_is_no_record(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("records") / "results.jsonl"
    path.write_text(json.dumps({"event": "step", **values}) + "\n")
    try:
        (record,) = read_records(path)
    except SwaToolsError:
        return
    for field in dataclasses.fields(Record):
        value = getattr(record, field.name)
        assert field.name == "event" or isinstance(value, field.type)
        assert not isinstance(value, float) or math.isfinite(value)


def test_writers_at_the_same_time_lose_nothing(path):
    def write(number):
        for step in range(50):
            append_records(path, [Record(event="step", step=step, command="x" * 5000 + number)])

    threads = [threading.Thread(target=write, args=(number,)) for number in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(read_records(path))) == 200


@pytest.mark.parametrize("where", ["missing/results.jsonl", ""])
def test_a_path_that_cannot_be_used_is_named(tmp_path, where):
    path = tmp_path / where
    with pytest.raises(OutputError, match="cannot write results: "):
        append_records(path, [STEP])
    with pytest.raises(SwaToolsError, match="cannot read results: "):
        list(read_records(path))
