"""From options declared on dataclasses to those of a command, and back."""

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from swa_tools.cli.parameter_types import PATH, FiniteNumber, KeyValue, NumberList, Parsed
from swa_tools.options import Bounds, Declared, declared

T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options_of(
    *classes: type,
    only: Collection[str] | None = None,
    callbacks: Mapping[str, Callable[..., Any]] | None = None,
) -> Decorator:
    """Return the decorator that adds the options of dataclasses to a command.

    A class's own options come before those of its bases; a base that several classes share counts
    once.

    Args:
        classes: Dataclasses whose fields declare the options.
        only: Names of the options to add; None for all.
        callbacks: click's callbacks by the names of options; they run before other options are
            read.
    """
    found = {
        one.name: one
        for cls in classes
        for one in _own_first(cls)
        if only is None or one.name in only
    }
    callbacks = callbacks or {}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(found.values()):
            function = _parameter(one, callbacks.get(one.name))(function)
        return function

    return decorate


def names_of(*classes: type) -> list[str]:
    """Return the names of the options of dataclasses, each once."""
    return list({one.name: None for cls in classes for one in declared(cls)})


def sections_of(*classes: type) -> dict[str, list[str]]:
    """Return the headings of dataclasses' options, with the names of the options below each."""
    sections: dict[str, list[str]] = {}
    for cls in classes:
        for one in declared(cls):
            if one.option.section is not None and not one.option.is_argument:
                sections.setdefault(one.option.section, []).append(one.name)
    return sections


def taken(cls: type[T], given: Mapping[str, Any], **other: Any) -> T:
    """Build a dataclass of options from the parameters of a command.

    Args:
        cls: The dataclass; an option that the command lacks keeps its default.
        given: All parameters of the command.
        other: Fields that are not parameters of the command.
    """
    hints = typing.get_type_hints(cls)
    own = {one.name for one in declared(cls)} & given.keys()
    values: dict[str, Any] = dict(other)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # T is a dataclass
        annotation = hints[field.name]
        if field.name not in values and dataclasses.is_dataclass(annotation):
            values[field.name] = taken(typing.cast("type[Any]", annotation), given)
        elif field.name not in values and field.name in own:
            value = given[field.name]
            values[field.name] = dict(value) if typing.get_origin(annotation) is dict else value
    return cls(**values)


def _own_first(cls: type) -> list[Declared]:
    """Return the options of a dataclass as a help page lists them, those of its bases last."""
    own = [vars(base).get("__annotations__", {}) for base in cls.__mro__]

    def place(one: Declared) -> int:
        return next((number for number, names in enumerate(own) if one.name in names), 0)

    return sorted(declared(cls), key=place)


def _parameter(one: Declared, callback: Callable[..., Any] | None) -> Decorator:
    option, annotation = one.option, _without_none(one.annotation)
    if option.is_argument:
        return click.argument(one.name, required=False)
    shown = "" if option.shown_default is None else f"  [default: {option.shown_default}]"
    settings: dict[str, Any] = {
        "help": option.help + shown,
        "default": one.default,
        "metavar": option.metavar,
        "show_default": option.shown_default is None and one.default is not False,
    }
    flag = one.flag
    if callback is not None:
        settings |= {"callback": callback, "is_eager": True}
    if annotation is bool:
        if one.default is False:
            settings["is_flag"] = True
        else:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif annotation == tuple[Path, ...]:
        settings |= {"type": PATH, "multiple": True}
    elif annotation == tuple[str, ...]:
        settings |= {"multiple": True, "show_default": False}
    elif typing.get_origin(annotation) is dict:
        settings |= {"type": KeyValue(), "multiple": True, "default": (), "show_default": False}
    else:
        settings["type"] = _type(one, annotation)
    flags = [flag] if option.short is None else [option.short, flag]
    return click.option(*flags, one.name, **settings)


def _type(one: Declared, annotation: Any) -> Any:
    option = one.option
    if option.parse is not None:
        return Parsed(option.parse)
    if option.choices is not None:
        return click.Choice(option.choices)
    if typing.get_origin(annotation) is Literal:
        return click.Choice(typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return NumberList()
    if annotation is Path:
        return PATH
    bounds = option.bounds
    if bounds is None:
        return annotation
    return _range(bounds, annotation)


def _range(bounds: Bounds, annotation: type) -> click.ParamType:  # type: ignore[type-arg]  # as above
    limits = dataclasses.asdict(bounds)
    if annotation is float:
        return FiniteNumber(**limits)
    whole = {name: int(limits[name]) for name in ("min", "max") if limits[name] is not None}
    return click.IntRange(**(limits | whole))


def _without_none(annotation: Any) -> Any:
    """Return the type of an optional value without None; other types are returned unchanged."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        (annotation,) = (one for one in typing.get_args(annotation) if one is not types.NoneType)
    return annotation
