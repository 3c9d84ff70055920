"""Read a pickle without running anything in it.

A pickle is a program for a small stack machine, whose instructions name classes and functions to
call. This machine imports and calls none of them: plain containers, numbers and strings are
rebuilt, and whatever else a pickle would build is an `Inert` that remembers its class's name. What
a few well-known names stand for (an `OrderedDict`, a tensor of torch's) is decided by the table of
`rebuild` functions that the caller passes, never by the file.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol, cast

from swa_tools.checkpoints.foreign.inert import Global, Inert, plain_key

MAX_STEPS = 10_000_000
"""Instructions in one pickle; a ResNet-50 with its optimizer has about 20,000. Each makes at most
one object, so this bounds time and memory on a hostile file."""

OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Python 2's names, by today's."""


class Stream(Protocol):
    """Where a pickle is read from."""

    def read(self, n_bytes: int, /) -> bytes:
        """Return the next bytes, fewer at the end."""

    def readline(self) -> bytes:
        """Return the bytes up to the next newline, which is included."""

    def tell(self) -> int:
        """Return the position of the next byte."""


class BrokenPickleError(Exception):
    """A pickle is damaged, or hostile."""


Rebuild = Mapping[str, Callable[..., Any]]


def read_pickle(
    stream: Stream,
    *,
    rebuild: Rebuild,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the object that a pickle describes, with an `Inert` for all that is not plain.

    Reads up to and including the pickle's last byte.

    Args:
        stream: The pickle.
        rebuild: What to make of a call, by the name of what would be called; given its arguments.
            Must not trust them.
        persistent: What to make of a reference to something outside of the pickle.

    Raises:
        BrokenPickleError: It is no pickle, is cut off, contradicts itself, or is too long.
    """
    machine = _Machine(rebuild, persistent)
    try:
        for n_steps, (opcode, argument, _) in enumerate(
            pickletools.genops(cast(IO[bytes], stream))
        ):
            if n_steps == MAX_STEPS:
                raise BrokenPickleError(f"its pickle has more than {MAX_STEPS:,} instructions")
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        # Instructions that contradict each other can fail in any of these ways.
        raise BrokenPickleError(
            f"its pickle is damaged: {str(error) or 'unexpected end'}"
        ) from error


VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
"""Instructions that push their argument."""
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Inert("builtins.set"),
}
OLD_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
"""Python 2's, whose bytes pickletools reads as Latin-1."""
GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
IGNORED = frozenset({"FRAME", "STOP"})


class _Machine:
    """The stack machine: a method for each instruction that does more than push a value."""

    def __init__(self, rebuild: Rebuild, persistent: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._rebuild = rebuild
        self._persistent = persistent

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in OLD_STRINGS:
            self.stack.append(argument.encode("latin-1").decode("utf-8", "replace"))
        elif name in GETS:
            self.stack.append(self._memo[argument])
        elif name in PUTS:
            self._memo[argument] = self.stack[-1]
        elif name not in IGNORED:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise ValueError(f"unexpected instruction {name}")
            method(argument)

    def _proto(self, version: int) -> None:
        if version > pickle.HIGHEST_PROTOCOL:
            raise ValueError(f"it is of protocol {version}, which is not known")

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def _pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_to_mark()

    def _pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append(tuple(items))

    def _tuple1(self, _: Any) -> None:
        self._gather(1)

    def _tuple2(self, _: Any) -> None:
        self._gather(2)

    def _tuple3(self, _: Any) -> None:
        self._gather(3)

    def _gather(self, n: int) -> None:
        items = tuple(self.stack[-n:])
        if len(items) != n:
            raise IndexError("too few items for a tuple")
        self.stack[-n:] = [items]

    def _list(self, _: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append(items)

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target += items
        elif not isinstance(target, Inert):
            raise TypeError(f"items are appended to a {type(target).__name__}")

    def _dict(self, _: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append({})
        self._update(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._update(items)

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target = target.items
        if type(target) is not dict:
            raise TypeError(f"keys are set in a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[plain_key(key)] = value

    def _additems(self, _: Any) -> None:
        self._pop_to_mark()

    def _frozenset(self, _: Any) -> None:
        self._pop_to_mark()
        self.stack.append(Inert("builtins.frozenset"))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Global(f"{OLD_MODULES.get(module, module)}.{name}"))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no string")
        self._global(f"{module} {name}")

    def _reduce(self, _: Any) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(callee, arguments))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()  # the keyword arguments
        self._reduce(None)

    def _obj(self, _: Any) -> None:
        callee, *arguments = self._pop_to_mark()
        self.stack.append(self._call(callee, tuple(arguments)))

    def _inst(self, argument: str) -> None:
        arguments = self._pop_to_mark()
        self._global(argument)
        self.stack.append(self._call(self.stack.pop(), tuple(arguments)))

    def _call(self, callee: Any, arguments: Any) -> Any:
        if type(arguments) is not tuple:
            raise TypeError(f"arguments in a {type(arguments).__name__}")
        name = callee.name if isinstance(callee, Global) else "an object"
        return self._rebuild[name](*arguments) if name in self._rebuild else Inert(name, arguments)

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state

    def _persid(self, argument: Any) -> None:
        if self._persistent is None:
            raise ValueError("it refers to something outside of itself")
        self.stack.append(self._persistent(argument))

    def _binpersid(self, _: Any) -> None:
        self._persid(self.stack.pop())
