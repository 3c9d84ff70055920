"""The metadata document: it comes back as it was written, and hostile ones are refused."""

import dataclasses
import json
import math
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.checkpoints.metadata import (
    SCHEMA,
    AverageInfo,
    BnInfo,
    CheckpointMetadata,
    ModelInfo,
    Preprocessing,
    SourceInfo,
    TrainingInfo,
    ViewInfo,
    parse_metadata,
)
from swa_tools.errors import CheckpointError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**70)
PLAIN = st.recursive(
    st.none() | st.booleans() | COUNT | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KWARGS = st.dictionaries(TEXT, PLAIN, max_size=3)
MODEL = st.builds(
    ModelInfo,
    name=TEXT,
    kwargs=KWARGS,
    num_classes=COUNT,
    classes=st.none() | st.lists(TEXT, max_size=3).map(tuple),
    head=st.sampled_from(["own", "imagenet-1k"]),
)
CHANNELS = st.tuples(NUMBER, NUMBER, NUMBER)
PREPROCESSING = st.builds(
    Preprocessing,
    image_size=COUNT,
    resize=COUNT,
    crop=st.sampled_from(["center", "squash", "border"]),
    interpolation=TEXT,
    mean=CHANNELS,
    std=CHANNELS,
)
VIEW = st.builds(
    ViewInfo,
    size=COUNT,
    crop=st.sampled_from(["random-resized", "evaluation"]),
    min_area=st.none() | NUMBER,
    flip=st.none() | NUMBER,
    interpolation=TEXT,
)
BN = st.builds(
    BnInfo,
    state=st.sampled_from(["none", "trained", "stale", "updated", "unknown"]),
    estimator=st.none() | TEXT,
    n_samples=st.none() | COUNT,
    batch_size=st.none() | COUNT,
    view=st.none() | VIEW,
    data_digest=st.none() | TEXT,
)
TRAINING = st.builds(
    TrainingInfo,
    epoch=NUMBER,
    step=COUNT,
    cycle=st.none() | COUNT,
    lr=NUMBER,
    schedule=KWARGS,
    seed=COUNT,
)
SOURCE = st.builds(SourceInfo, name=TEXT, digest=TEXT, weight=NUMBER, n=COUNT)
AVERAGE = st.builds(
    AverageInfo,
    include_init=st.booleans(),
    weighting=TEXT,
    sources=st.lists(SOURCE, max_size=3).map(tuple),
)
METADATA = st.builds(
    CheckpointMetadata,
    kind=st.sampled_from(["checkpoint", "average", "soup"]),
    model=st.none() | MODEL,
    preprocessing=st.none() | PREPROCESSING,
    bn=BN,
    training=st.none() | TRAINING,
    average=st.none() | AVERAGE,
    swa_tools=TEXT,
)
FULL = CheckpointMetadata(
    kind="average",
    model=ModelInfo(
        name="timm/resnet18", kwargs={"drop_rate": 0.1}, num_classes=2, classes=("cat", "dog")
    ),
    preprocessing=Preprocessing(
        image_size=96,
        resize=110,
        crop="center",
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    bn=BnInfo(state="updated", estimator="population", n_samples=2000, batch_size=256),
    training=TrainingInfo(
        epoch=5.0, step=395, cycle=5, lr=1e-05, schedule={"name": "sawtooth"}, seed=0
    ),
    average=AverageInfo(
        include_init=False,
        weighting="uniform",
        sources=(SourceInfo(name="cycle-001.safetensors", digest="xxh3-128:00", weight=1.0),),
    ),
    swa_tools="0.1.0",
)
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def parse(document):
    text = document if isinstance(document, str) else json.dumps(document)
    return parse_metadata(text, where="a.safetensors")


def paths_of(document, path=()):
    """Yield the path to every value of a JSON document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths_of(value, (*path, key))


def changed(document, path, value):
    """Return a copy of a JSON document with another value at a path."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


DOCUMENT = json.loads(FULL.to_json())
PATHS = list(paths_of(DOCUMENT))


@given(metadata=METADATA)
def test_metadata_comes_back_as_it_was_written(metadata):
    assert parse(metadata.to_json()) == metadata


@given(metadata=METADATA)
def test_what_is_read_writes_the_same_bytes(metadata):
    assert parse(metadata.to_json()).to_json() == metadata.to_json()


def test_fields_are_sorted_at_every_depth_and_hold_the_schema():
    text = FULL.to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert json.loads(text)["schema"] == SCHEMA
    assert text.isascii()


def test_document_of_the_design_is_read():
    text = """{"schema": 1, "kind": "average",
     "model": {"name": "timm/mobilenetv2_050", "kwargs": {}, "num_classes": 10, "classes": null,
               "head": "own"},
     "preprocessing": {"image_size": 96, "resize": 110, "crop": "center",
        "interpolation": "bilinear", "mean": [0, 0.5, 1], "std": [1, 1, 1]},
     "bn": {"state": "updated", "estimator": "population", "n_samples": 2000, "batch_size": 256,
        "augment": false, "data_digest": "xxh3-128:00"},
     "average": {"include_init": false, "weighting": "uniform",
        "sources": [{"name": "cycle-001.safetensors", "digest": "xxh3-128:00", "weight": 1, "n": 1}]
     },
     "swa_tools": "0.1.0"}"""
    metadata = parse(text)
    assert metadata.model.name == "timm/mobilenetv2_050"
    assert metadata.preprocessing.mean == (0.0, 0.5, 1.0)
    assert metadata.training is None
    assert metadata.average.sources[0].weight == 1.0
    assert type(metadata.average.sources[0].weight) is float


@given(path=st.sampled_from([(), ("model",), ("bn",), ("average", "sources", 0)]), value=PLAIN)
def test_unknown_fields_are_ignored(path, value):
    document = changed(DOCUMENT, (*path, "new_field"), value)
    assert parse(document) == FULL


@pytest.mark.parametrize("path", [("bn",), ("kind",), ("swa_tools",), ("model", "name")])
def test_a_missing_field_is_named(path):
    document = json.loads(FULL.to_json())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(CheckpointError, match=f"a.safetensors: .*'{path[-1]}' is missing"):
        parse(document)


@pytest.mark.parametrize("schema", [2, 10**100])
def test_a_newer_schema_asks_for_a_newer_version(schema):
    with pytest.raises(CheckpointError, match="reads up to 1; update swa-tools"):
        parse({"schema": schema, "anything": "else"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "3",
        "{}",
        '{"schema": 0}',
        '{"schema": true}',
        '{"schema": 1.0}',
        '{"schema": "1"}',
        '{"schema": 1}',
        '{"schema": 1' + "0" * 5000 + "}",
        "[" * 100_000 + "]" * 100_000,
        '{"schema": 1, "model": ' + '{"a": ' * 100_000 + "1" + "}" * 100_000 + "}",
        '{"schema": ["' + "long" * 10_000 + '"]}',
    ],
)
def test_a_text_that_is_no_such_document_is_refused_in_one_line(text):
    with pytest.raises(CheckpointError, match="a.safetensors: ") as caught:
        parse(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kind",), "sausage", "kind: expected one of .* found 'sausage'"),
        (("kind",), ["average"], "kind: expected one of"),
        (("model",), [], "model: expected an object, found list"),
        (("model", "num_classes"), 2.0, "num_classes: expected int, found float"),
        (("model", "num_classes"), True, "num_classes: expected int, found bool"),
        (("model", "classes"), ["a", 1], r"classes\[1\]: expected str, found int"),
        (("model", "classes"), "ab", "classes: expected tuple, found str"),
        (("model", "kwargs"), None, "kwargs: expected dict, found NoneType"),
        (("preprocessing", "mean"), [0.5, "x", 0.5], r"mean\[1\]: expected float, found str"),
        (("training", "lr"), 10**400, "lr: expected a number"),
        (("bn",), None, "bn: expected an object, found NoneType"),
        (("average", "sources", 0), "cycle-001", r"sources\[0\]: expected an object, found str"),
        (("kind",), "x" * 10_000, "kind: expected one of"),
    ],
)
def test_a_field_of_another_type_is_named(path, value, message):
    with pytest.raises(CheckpointError, match=f"a.safetensors: .*{message}") as caught:
        parse(changed(DOCUMENT, path, value))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"', '{"\\udfff": 1}'])
@pytest.mark.parametrize("place", ['"kwargs":{"drop_rate":0.1}', '"lr":1e-05'])
def test_values_that_could_not_be_written_again_are_refused(place, value):
    text = FULL.to_json()
    assert place in text
    key = place.partition(":")[0]
    inner = f'{{"a": {value}}}' if "kwargs" in place else value
    with pytest.raises(CheckpointError, match="metadata is not JSON"):
        parse(text.replace(place, f"{key}:{inner}"))


@given(text=st.text() | HOSTILE.map(json.dumps))
def test_any_text_is_metadata_or_a_clear_error(text):
    with pytest.raises(CheckpointError):
        parse(text)


@given(path=st.sampled_from(PATHS), value=HOSTILE)
def test_any_value_in_any_field_is_metadata_or_a_clear_error(path, value):
    try:
        metadata = parse(changed(DOCUMENT, path, value))
    except CheckpointError:
        return
    assert parse(metadata.to_json()) == metadata
    assert_types(metadata)


def assert_types(item):
    """Fail unless every field of a dataclass holds what its annotation says."""
    for name, annotation in typing.get_type_hints(type(item)).items():
        value = getattr(item, name)
        if dataclasses.is_dataclass(value):
            assert_types(value)
        elif isinstance(value, tuple):
            for inner in value:
                if dataclasses.is_dataclass(inner):
                    assert_types(inner)
        elif isinstance(value, float):
            assert math.isfinite(value)
        elif typing.get_origin(annotation) is typing.Literal:
            assert value in typing.get_args(annotation)
        elif annotation in (str, int, bool):
            assert type(value) is annotation
