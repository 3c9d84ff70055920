"""What stands in the place of the objects that a pickle would build."""

from typing import Any

MAX_KEY_CHARACTERS = 10_000
MAX_NUMBER_AS_KEY = 1 << 16
"""An optimizer numbers its parameters; a model has fewer."""


class Global:
    """A class or function that a pickle names; nothing is imported.

    Attributes:
        name: Module and name, such as `collections.OrderedDict`.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Inert:
    """Stands in the place of an object that is not rebuilt.

    Attributes:
        name: The name of its class, or of the function that would have made it.
        arguments: What that would have been called with.
        items: What was put into it by key, as into a subclass of dict.
        state: What would have been set as its state; None if nothing was.
    """

    __slots__ = ("arguments", "items", "name", "state")

    def __init__(self, name: str, arguments: Any = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.items: dict[Any, Any] = {}
        self.state: Any = None

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def is_module(self) -> bool:
        """Whether its state is that of a `torch.nn.Module`."""
        return isinstance(self.state, dict) and {"_parameters", "_modules"} <= self.state.keys()


def plain_key(key: Any) -> Any:
    """Return a key of a dictionary that takes no time to be hashed and compared.

    Strings are hashed once, and so that nobody can choose what collides. Large numbers that collide
    can be chosen, a tuple is hashed whenever it is used, and nested ones can exhaust the C stack.
    """
    if isinstance(key, str):
        if len(key) > MAX_KEY_CHARACTERS:
            raise ValueError(f"a key of {len(key):,} characters")
        return key
    if isinstance(key, int) and 0 <= key < MAX_NUMBER_AS_KEY:
        return key
    return Inert("a key", key)
