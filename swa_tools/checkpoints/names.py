"""Names of tensors: what wrappers put in front of them, and their natural order."""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""DistributedDataParallel, DataParallel and AveragedModel; torch.compile."""

LIGHTNING_PREFIX = "model."

BATCHNORM_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""The last part of the names of what BatchNorm measures instead of learning."""

MAX_WRAPPERS = 20
"""More are a hostile file's."""

AVERAGED_MODEL_COUNTER = "n_averaged"


def plain_names(
    stored: Iterable[str], *, prefix: str = "", keep_names: bool = False
) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """Remove the prefixes of wrappers, in any order, where every name carries them.

    `AveragedModel`'s counter `n_averaged` stands outside of its prefix and is dropped.

    Args:
        stored: The names in the file.
        prefix: What counts as a wrapper too, such as `model.` in Lightning's files; in others'
            files that is part of many models' own names.
        keep_names: Whether to remove nothing.

    Returns:
        The stored name by plain name, in the order of the file; what was removed from them; and
        notes on what was changed.
    """
    names = {name: name for name in stored}
    notes = []
    prefixes = (*WRAPPER_PREFIXES, prefix) if prefix else WRAPPER_PREFIXES
    removed = ""
    for _ in range(0 if keep_names else MAX_WRAPPERS):
        shared = _shared_prefix(names, prefixes)
        if shared is None:
            break
        if names.pop(AVERAGED_MODEL_COUNTER, None) is not None:
            notes.append(f"the counter '{AVERAGED_MODEL_COUNTER}' of AveragedModel is left out")
        names = {name.removeprefix(shared): old for name, old in names.items()}
        removed += shared
    if removed:
        notes.insert(0, f"the prefix '{removed}' is removed from every name")
    return names, removed, tuple(notes)


def _shared_prefix(names: Iterable[str], prefixes: Iterable[str]) -> str | None:
    rest = [name for name in names if name != AVERAGED_MODEL_COUNTER]
    for prefix in prefixes:
        if rest and all(name.startswith(prefix) and name != prefix for name in rest):
            return prefix
    return None


def is_buffer_of_batchnorm(name: str) -> bool:
    """Tell the statistics and counters of BatchNorm by the last part of a tensor's name."""
    return name.rpartition(".")[2] in BATCHNORM_BUFFERS


WORDS_FOR_A_CHOICE = frozenset(
    {"last", "latest", "newest", "final", "best", "ema", "swa", "avg", "average", "averaged"}
)
"""In the names of files that repeat or combine the numbered ones."""


MOMENT = re.compile(r"(epoch|step|iter)[a-z]*[=_-]?(\d+)", re.IGNORECASE)
"""In a name: the moment of the training that a checkpoint was saved at."""

SUFFIX = re.compile(r"(?:\.(?:safetensors|pth|pt|bin|ckpt|tar|index|json))+$", re.IGNORECASE)


def without_a_number(names: Sequence[str]) -> list[str]:
    """Return those of a set of checkpoints' names that say no place in an order.

    That is `last` and `model_best` beside `epoch-1`, `resnet50-last` beside `resnet50-1`.
    """
    start = len(re.sub(r"\d+$", "", common_start(names))) if len(names) > 1 else 0
    return [
        name
        for name in names
        if not re.search(r"\d", name[start:])
        or WORDS_FOR_A_CHOICE & set(re.split(r"[^a-z]+", name.lower()))
    ]


def common_start(names: Sequence[str]) -> str:
    """Return the longest string with which all names begin."""
    return os.path.commonprefix(names)  # noqa: RUF071  # of characters is what is meant here


def in_order(names: Sequence[str]) -> list[str]:
    """Sort checkpoints' names: `epoch-10` after `epoch-9`, and none without a number as newest.

    Where all say their epoch or step, this comes before whatever else is in a name, such as a
    metric. The same names in whatever order give the same list.
    """
    unnumbered = set(without_a_number(names))
    moments = {name: _moment(name) for name in names if name not in unnumbered}
    have_all = len({tuple(moment) for moment in moments.values()}) == 1

    def key(name: str) -> tuple[Any, ...]:
        moment = tuple(moments[name].values()) if name in moments and have_all else ()
        return name not in unnumbered, moment, natural_key(SUFFIX.sub("", name)), name

    return sorted(names, key=key)


def _moment(name: str) -> dict[str, int]:
    """Return the numbers behind `epoch` and `step` in a name."""
    return {word.lower(): int(number) for word, number in MOMENT.findall(os.path.basename(name))}


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that puts `epoch-10` after `epoch-9`."""
    return tuple(
        (0, int(part)) if part.isdecimal() else (1, part)
        for part in re.split(r"(\d+)", text)
        if part
    )
