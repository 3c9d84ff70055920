"""How an option is declared: once, on the dataclass field that holds it.

The fields determine the options of the command line and their help, what a resumed run must have in
common with the run before, what a run records about the origin of its numbers, and which runs are
replicates.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

Affects = Literal["numbers", "bits", "nothing"]
"""What a different value changes: the experiment; only how the same experiment is rounded; or only
how it is watched or stored."""

_KEY = "option"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Which numbers an option takes: integers or finite numbers, as its field is annotated."""

    min: float | None = None
    max: float | None = None
    min_open: bool = False
    max_open: bool = False


COUNT = Bounds(min=1)
NOT_NEGATIVE = Bounds(min=0)
POSITIVE = Bounds(min=0, min_open=True)
SHARE = Bounds(min=0, max=1, max_open=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a field declares about itself as an option.

    Attributes:
        help: A sentence for the help page.
        affects: What another value changes about the numbers of a run.
        section: The heading of the help page that lists the option.
        flag: The option's name, if it is not the field's.
        short: Its one-letter name.
        metavar: The placeholder for the value on the help page.
        shown_default: What happens by default, if the default value does not say it.
        bounds: Which numbers it takes.
        choices: Which words it takes, if the annotation does not list them.
        parse: Reads a value if the annotation does not say how; raises ValueError.
        is_argument: Whether it is a positional argument instead of a flag.
        may_change: Whether a run may be resumed with another value although it affects numbers:
            what must not change (the images, the schedule) is then compared separately.
        is_recorded: Whether it belongs to the run rather than to one call, and is kept in
            `run.json`.
    """

    help: str
    affects: Affects = "nothing"
    section: str | None = None
    flag: str | None = None
    short: str | None = None
    metavar: str | None = None
    shown_default: str | None = None
    bounds: Bounds | None = None
    choices: Sequence[str] | None = None
    parse: Callable[[str], Any] | None = None
    is_argument: bool = False
    may_change: bool = False
    is_recorded: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """An option as its class declares it.

    Attributes:
        name: Name of the field.
        annotation: Its type.
        default: Its default; None if a value must be given.
        option: Everything else that it declares.
    """

    name: str
    annotation: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """The option's name on the command line."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def title(self) -> str:
        """The option's name in messages."""
        return self.name.replace("_", " ")


def option(
    default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **described: Any
) -> Any:
    """Declare an option: a field of a dataclass.

    Args:
        default: The default; without one a value must be given.
        factory: Makes the default, instead of `default`.
        described: Attributes of `Option`.
    """
    # The overloads of `field` allow only one of the two.
    given: dict[str, Any] = {"default": default, "default_factory": factory}
    return dataclasses.field(**given, metadata={_KEY: Option(**described)})


def declared(cls: Any) -> Iterator[Declared]:
    """Return the options of a dataclass (or an instance), nested dataclasses included."""
    hints = typing.get_type_hints(cls if isinstance(cls, type) else type(cls))
    for field in dataclasses.fields(cls):
        annotation = hints[field.name]
        if _KEY in field.metadata:
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            yield Declared(
                name=field.name,
                annotation=annotation,
                default=None if default is dataclasses.MISSING else default,
                option=field.metadata[_KEY],
            )
        elif dataclasses.is_dataclass(annotation):
            yield from declared(annotation)


def values_of(options: Any) -> dict[str, Any]:
    """Return the values of a dataclass's options by name, including those of nested dataclasses."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if _KEY in field.metadata:
            values[field.name] = value
        elif dataclasses.is_dataclass(value):
            values |= values_of(value)
    return values
