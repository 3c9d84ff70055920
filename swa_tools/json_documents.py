"""From JSON to a dataclass: every value is checked, and an error names the field that is wrong."""

import dataclasses
import functools
import json
import reprlib
import sys
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class MismatchError(ValueError):
    """A JSON value of the wrong type; the message names field, expected type and found type."""


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Raises:
        MismatchError: It holds none.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MismatchError(f"expected a JSON object: {error}") from error
    if not isinstance(document, dict):
        raise MismatchError(f"expected a JSON object, found {type(document).__name__}")
    return document


def from_json(value: Any, cls: type[T], *, name: str) -> T:
    """Return a JSON object as a dataclass; unknown fields are ignored.

    The fields may be texts, whole numbers, numbers (which a whole number is, too), truth values,
    `Literal`s, dataclasses, tuples of one type (`tuple[float, ...]`), and dicts, those of Any not
    looked into; each of them may be optional (`X | None`).

    Args:
        value: The value, as the `json` module returns it.
        cls: The dataclass.
        name: The object's name in an error.

    Raises:
        MismatchError: It is not an object, or a field is missing or has the wrong type.
    """
    if not isinstance(value, dict):
        raise MismatchError(f"{name}: expected an object, found {type(value).__name__}")
    found = {}
    hashable: Any = cls  # mypy does not take a generic type for it
    for field, annotation, is_required in _fields(hashable):
        if field in value:
            found[field] = _convert(value[field], annotation, field)
        elif is_required:
            raise MismatchError(f"{name}: the field '{field}' is missing")
    return cls(**found)


@functools.cache
def _fields(cls: Any) -> list[tuple[str, Any, bool]]:
    """Return the name and type of each field, and whether it has no default."""
    hints, missing = typing.get_type_hints(cls), dataclasses.MISSING
    return [
        (one.name, hints[one.name], one.default is missing and one.default_factory is missing)
        for one in dataclasses.fields(cls)
    ]


def _convert(value: Any, annotation: Any, field: str) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return from_json(value, annotation, name=field)
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        (annotation,) = (argument for argument in arguments if argument is not type(None))
        return _convert(value, annotation, field)
    if origin is Literal:
        if value in arguments:
            return value
        raise MismatchError(f"{field}: expected one of {arguments}, found {reprlib.repr(value)}")
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(item, arguments[0], f"{field}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        if arguments[1] is Any:
            return value
        return {
            key: _convert(one, arguments[1], f"{field}[{key!r:.60}]") for key, one in value.items()
        }
    if annotation is float and type(value) is int:
        if abs(value) > sys.float_info.max:
            raise MismatchError(f"{field}: expected a number, found {reprlib.repr(value)}")
        return float(value)
    if type(value) is annotation:
        return value
    expected = getattr(origin or annotation, "__name__", annotation)
    raise MismatchError(f"{field}: expected {expected}, found {type(value).__name__}")
