"""From JSON to dataclasses; the documents that are read so have tests of their own."""

import dataclasses
from typing import Any, Literal

import pytest

from swa_tools.json_documents import MismatchError, from_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    word: Literal["yes", "no"]
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    n: int
    name: str | None = None
    parts: tuple[Part, ...] = ()
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


def test_objects_become_dataclasses_and_unknown_fields_are_ignored():
    document = {"n": 2, "parts": [{"word": "no", "weight": 3}], "more": {"a": [1]}, "new": 1}
    whole = from_json(document, Whole, name="whole")
    assert whole == Whole(n=2, parts=(Part(word="no", weight=3.0),), more={"a": [1]})
    assert type(whole.parts[0].weight) is float


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "whole: expected an object, found list"),
        ({"name": "a"}, "whole: the field 'n' is missing"),
        ({"n": True}, "n: expected int, found bool"),
        ({"n": 1, "name": 2}, "name: expected str, found int"),
        ({"n": 1, "parts": {}}, "parts: expected tuple, found dict"),
        ({"n": 1, "parts": [{}]}, "parts[0]: the field 'word' is missing"),
        ({"n": 1, "parts": [{"word": "x"}]}, "word: expected one of ('yes', 'no'), found 'x'"),
        ({"n": 1, "parts": [{"word": "no", "weight": 10**400}]}, "weight: expected a number"),
        ({"n": 1, "more": []}, "more: expected dict, found list"),
    ],
)
def test_the_field_that_does_not_fit_is_named(document, message):
    with pytest.raises(MismatchError) as caught:
        from_json(document, Whole, name="whole")
    assert str(caught.value).startswith(message)
