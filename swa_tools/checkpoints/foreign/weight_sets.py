"""Which of the tensors in a trainer's file are the weights.

Trainers put weights beside optimizers, schedules and whatever else they need to go on. What could
be meant is looked for in all dictionaries with names for keys; where that is more than one set, the
user chooses: averaging the wrong one would look like success.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from swa_tools.checkpoints.foreign.inert import Inert
from swa_tools.checkpoints.foreign.stored_tensor import StoredTensor
from swa_tools.checkpoints.names import is_buffer_of_batchnorm
from swa_tools.errors import CheckpointError, NoWeightsError

LIGHTNING_VERSION = "pytorch-lightning_version"
"""The key by which a file of Lightning's is known."""

OPTIMIZER_KEYS = {"param_groups", "hypers"}
"""By which the state of an optimizer is known; the second is fastai's."""

DEEPSPEED_KEYS = ("param_shapes", "ds_version")

MAX_DEPTH = 8
"""Of dictionaries in dictionaries; it bounds the search in a hostile file."""

MAX_VISITS = 100_000

MAX_PATH = 1000
"""Characters of a dictionary's place."""

THE_FILE = "."
"""What the file's outermost dictionary is called where an entry is named."""

MAX_LISTED = 12


@dataclasses.dataclass(frozen=True, slots=True)
class ChosenWeights:
    """The set of tensors that was taken from a file.

    Attributes:
        tensors: By name.
        notes: What was taken and what was left out, for the user to know.
        is_lightning: Whether the file is Lightning's, which puts `model.` before names.
    """

    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...]
    is_lightning: bool


def choose_weights(loaded: Any, entry: str | None, *, where: str) -> ChosenWeights:
    """Take the weights out of what a file holds.

    Args:
        loaded: From `read_pickle`.
        entry: Which set to take: keys, and positions in lists, joined by dots (`agents.0.q`); `.`
            for the outermost dictionary.
        where: The file's name, for errors.

    Raises:
        CheckpointError: There are no weights, several sets could be meant, a name is no text, or
            the file is DeepSpeed's and its weights are elsewhere.
    """
    root = _mapping(loaded)
    if root is None and not (entry and isinstance(loaded, list | tuple)):
        raise NoWeightsError(f"{where}: {_not_a_dictionary(loaded)}")
    is_lightning = root is not None and LIGHTNING_VERSION in root
    if entry is None:
        path, found = _only_set(root or {}, is_lightning=is_lightning, where=where)
    else:
        path, found = entry, _at(loaded, entry)
    notes = [] if path == THE_FILE else [f"the weights are those under {path!r}"]
    tensors = _tensors(found)
    left_out = [str(key) for key in _mapping(found) or {} if key not in tensors]
    if left_out:
        notes.append(f"left out, for they are no tensors: {_listed(left_out)}")
    listed = _list_of_tensors(found)
    if listed:
        source, tensors = _named_by_a_set(listed, root or {}, path, where=where)
        notes.append(f"a list; its names, and BatchNorm's statistics, are those of {source!r}")
    if not tensors:
        sets = dict(_sets(root or {})) or _named_sets(loaded)
        raise CheckpointError(
            f"{where}: no weights under {entry!r}; it holds: {_listed(sets) or 'none'}"
        )
    for name in tensors:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(
                f"{where}: the name {name!r:.200} is not valid Unicode"
            ) from error
    if root is not None:
        _refuse_gathered_elsewhere(root, tensors, where=where)
    return ChosenWeights(tensors, tuple(notes), is_lightning)


def _only_set(
    root: Mapping[Any, Any], *, is_lightning: bool, where: str
) -> tuple[str, Mapping[Any, Any]]:
    """Return the one set of weights in a file, and where it stands."""
    if is_lightning and _tensors(root.get("state_dict")):
        return "state_dict", root["state_dict"]
    sets = dict(_sets(root))
    known = {id(found) for found in sets.values()}
    in_lists = [p for p, found in _sets(root, into_lists=True) if id(found) not in known]
    in_lists += _lists(root)
    modules = _modules(root)
    if not (sets or in_lists or modules):
        sets = {path: found for path, found in _walk(root) if _tensors(found)}
    if len(sets) == 1 and not in_lists and not modules:
        return next(iter(sets.items()))
    if sets:
        candidates = [*sets, *in_lists, *(f"{key} (a whole module)" for key in modules)]
        raise CheckpointError(
            f"{where}: several sets of weights in one file: {_listed(candidates)}; choose one with"
            " --entry"
        )
    if "param_groups" in root:
        raise NoWeightsError(f"{where}: the state of an optimizer, without weights")
    if modules and not in_lists:
        raise CheckpointError(f"{where}: {_whole_module(root[modules[0]], modules[0])}")
    others = _named_sets(root)
    if others:
        raise CheckpointError(
            f"{where}: no state dict where one is expected, but tensors under {_listed(others)};"
            " choose one with --entry"
        )
    raise NoWeightsError(
        f"{where}: no state dict in it: expected tensors by name, found {_listed(map(str, root))}"
    )


def _sets(
    root: Mapping[Any, Any], *, into_lists: bool = False
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Find the dictionaries that hold something like weights, optimizers' states left out."""
    for path, mapping in _walk(root, into_lists=into_lists):
        if any(tensor.could_be_a_weight for tensor in _tensors(mapping).values()):
            yield path, mapping


def _lists(root: Mapping[Any, Any]) -> Iterator[str]:
    """Find the lists that hold something like weights, as moving averages are often kept."""
    seen: set[int] = set()
    for path, mapping in _walk(root):
        for key, value in (_mapping(mapping) or {}).items():
            if _is_bookkeeping(key) or id(value) in seen:
                continue
            seen.add(id(value))
            if any(tensor.could_be_a_weight for tensor in _list_of_tensors(value)):
                yield str(key) if path == THE_FILE else f"{path}.{key}"


def _modules(root: Mapping[Any, Any]) -> list[str]:
    """Name the modules that were saved whole; a loss function without parameters is none."""
    return [
        key
        for key, value in root.items()
        if isinstance(key, str)
        and _is_module(value)
        and (value.state["_parameters"] or value.state["_modules"])
    ]


def _named_sets(loaded: Any) -> dict[str, Any]:
    """Find whatever an entry can name: all dictionaries of tensors, in lists too."""
    found_everywhere = _walk(loaded, into_lists=True, everything=True)
    return {path: found for path, found in found_everywhere if _tensors(found)}


def _walk(
    root: Any, *, into_lists: bool = False, everything: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yield the dictionaries in a nest of them, each once, with its place.

    Args:
        root: A dictionary; or a list, where lists are looked into.
        into_lists: Whether they are.
        everything: Whether to look into optimizers and their like.
    """
    queue = collections.deque([(THE_FILE, root, 0)])
    seen: set[int] = set()
    while queue and len(seen) < MAX_VISITS:
        path, value, depth = queue.popleft()
        if id(value) in seen or depth > MAX_DEPTH or len(path) > MAX_PATH:
            continue
        seen.add(id(value))
        mapping = _mapping(value)
        if mapping is not None:
            if not everything and OPTIMIZER_KEYS & mapping.keys():
                continue
            yield path, value
        for key, child in enumerate(value) if mapping is None else mapping.items():
            if not isinstance(key, str | int) or (
                not everything and mapping is not None and _is_bookkeeping(key)
            ):
                continue
            if _mapping(child) is not None or (into_lists and isinstance(child, list | tuple)):
                inner = str(key) if path == THE_FILE else f"{path}.{key}"
                queue.append((inner, child, depth + 1))


def _is_bookkeeping(key: Any) -> bool:
    """Tell the keys under which no weights are looked for unless they are named."""
    if not isinstance(key, str):
        return True  # an optimizer's state by number of parameter
    return re.search("optim(?!al)", key.lower()) is not None or key.endswith("_extra_state")


def _at(loaded: Any, entry: str) -> Any:
    """Return what stands under a dotted path; keys may have dots themselves. None for nothing."""
    if entry in ("", THE_FILE):
        return loaded
    mapping = _mapping(loaded)
    if mapping is None:
        mapping = dict(enumerate(loaded)) if isinstance(loaded, list | tuple) else {}
    by_text = {str(key): value for key, value in mapping.items() if isinstance(key, str | int)}
    if entry in by_text:
        return by_text[entry]
    parts = entry.split(".")
    for n in range(len(parts) - 1, 0, -1):
        head = ".".join(parts[:n])
        if head in by_text:
            found = _at(by_text[head], ".".join(parts[n:]))
            if found is not None:
                return found
    return None


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return a dictionary, also what was put into a class that is one."""
    if isinstance(value, Inert):
        return value.items or None
    return value if isinstance(value, dict) else None


def _tensors(value: Any) -> dict[str, StoredTensor]:
    items = (_mapping(value) or {}).items()
    return {k: v for k, v in items if isinstance(k, str) and isinstance(v, StoredTensor)}


def _is_module(value: Any) -> bool:
    return isinstance(value, Inert) and value.is_module


def _whole_module(module: Inert, key: str | None = None) -> str:
    place = f" under {key!r}" if key is not None else ""
    return (
        f"it holds a whole module{place}, a {module.name!r:.200}, which can be loaded only by"
        " running its code; where that code is at hand, save its state_dict()"
    )


def _not_a_dictionary(loaded: Any) -> str:
    if _is_module(loaded):
        return _whole_module(loaded)
    if isinstance(loaded, Inert):
        found = f"a {loaded.name!r:.200}"
    else:
        found = "Tensor" if isinstance(loaded, StoredTensor) else type(loaded).__name__
    hint = ""
    if isinstance(loaded, list | tuple) and (sets := _named_sets(loaded)):
        hint = f" with weights under {_listed(sets)}; choose one with --entry"
    return f"expected a dictionary of tensors, found {found}{hint}"


def _refuse_gathered_elsewhere(
    root: Mapping[Any, Any], tensors: Mapping[str, StoredTensor], *, where: str
) -> None:
    """Refuse DeepSpeed's ZeRO-3 files, whose tensors are empty: each rank keeps its part apart."""
    is_deepspeed = any(key in root for key in DEEPSPEED_KEYS)
    if is_deepspeed and all(0 in tensor.shape for tensor in tensors.values()):
        raise CheckpointError(
            f"{where}: a file of DeepSpeed's ZeRO-3, whose tensors are empty: the weights lie in"
            " parts beside it; gather them with the zero_to_fp32.py that DeepSpeed saved there, and"
            " average what it writes"
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    quoted = [f"{name!r:.60}" for name in names[:MAX_LISTED]]
    return ", ".join("'.' (the file itself)" if q == repr(THE_FILE) else q for q in quoted) + more


def _list_of_tensors(value: Any) -> list[StoredTensor]:
    items = value if isinstance(value, list | tuple) else []
    tensors = [item for item in items if isinstance(item, StoredTensor)]
    return tensors if len(tensors) == len(items) else []


def _named_by_a_set(
    values: Sequence[StoredTensor], root: Mapping[Any, Any], path: str, *, where: str
) -> tuple[str, dict[str, StoredTensor]]:
    """Give the parameters in a list, as moving averages are often kept, their names.

    They are in the order of the model's parameters; its buffers, which such a list lacks, are
    taken from the set that gives the names.
    """
    for other, mapping in _sets(root):
        tensors = _tensors(mapping)
        names = [
            name
            for name, tensor in tensors.items()
            if tensor.could_be_a_weight and not is_buffer_of_batchnorm(name)
        ]
        if [tensors[name].shape for name in names] == [value.shape for value in values]:
            return other, tensors | dict(zip(names, values, strict=True))
    raise CheckpointError(
        f"{where}: {path!r} is a list of {len(values)} tensors, and no set in the file has as many"
        " parameters of these shapes to give them names"
    )
