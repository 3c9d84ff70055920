"""How an option is declared: once, on the dataclass field that holds it.

From the fields follow the options of the command line with their help, what a resumed run must have
in common with the run before, what a run says of where its numbers come from, and which runs are
replicates.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

Affects = Literal["numbers", "bits", "nothing"]
"""What another value means: another experiment; the same one, rounded otherwise; or the same one,
watched or stored otherwise."""

_KEY = "option"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Which numbers an option takes; integers or finite numbers, as its field is annotated."""

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
    """What a field says of itself as an option.

    Attributes:
        help: A sentence for the help page.
        affects: What another value means for the numbers of a run.
        section: Heading of the help page that it stands under.
        flag: What it is called, if not as the field.
        short: The same in one letter.
        metavar: What stands for the value on the help page.
        shown_default: What happens by default, where the default does not say it.
        bounds: Of a number.
        choices: The words that it takes, where the annotation does not list them.
        parse: Reads a value that the annotation does not tell how to read; raises ValueError.
        is_argument: Whether it is given by its place instead of a flag.
        may_change: Whether a run may be resumed with another value although it affects numbers:
            what must not change is then compared by itself (the images, the schedule).
        is_recorded: Whether it belongs to the run, and not to one call: `run.json` has it.
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
        name: Of the field.
        annotation: Its type.
        default: None where it must be given.
        option: The rest.
    """

    name: str
    annotation: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """What it is called on the command line."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name.replace("_", " ")


def option(
    default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **described: Any
) -> Any:
    """Declare an option: a field of a dataclass.

    Args:
        default: Its default; without one it must be given.
        factory: What makes the default, instead.
        described: What `Option` says of it.
    """
    # The overloads of `field` allow one of the two.
    given: dict[str, Any] = {"default": default, "default_factory": factory}
    return dataclasses.field(**given, metadata={_KEY: Option(**described)})


def declared(cls: Any) -> Iterator[Declared]:
    """Return the options of a dataclass, or of an instance of one, with those that it nests."""
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
    """Return the values of a dataclass's options by name, those of nested ones among them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if _KEY in field.metadata:
            values[field.name] = value
        elif dataclasses.is_dataclass(value):
            values |= values_of(value)
    return values
