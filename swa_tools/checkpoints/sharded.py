"""Sharded checkpoints in the layout of Hugging Face: shards, and the index that names them."""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from swa_tools.checkpoints.files import open_input, read_all
from swa_tools.checkpoints.header import MAX_HEADER_BYTES, build_header, tensor_bytes
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.errors import CheckpointError
from swa_tools.json_documents import from_json, parse_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"

SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
"""In the names that the libraries of Hugging Face give to the pieces."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """One file that an index names, and the tensors that it says stand in it."""

    index: Path
    path: Path
    names: frozenset[str]

    def check(self, found: Collection[str]) -> None:
        """Compare with what the file holds.

        Raises:
            CheckpointError: A tensor is missing from the file, or from the index.
        """
        for name in sorted(self.names.symmetric_difference(found)):
            missing_from = self.path.name if name in self.names else self.index.name
            raise CheckpointError(
                f"{self.index}: index and shard {self.path.name} do not belong together:"
                f" tensor {name!r} is missing from {missing_from}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class _Index:
    """What an index says: which file holds each tensor."""

    weight_map: dict[str, str]


def open_index(path: Path) -> list[Shard]:
    """Read an index and return its shards, sorted by name.

    A shard must lie in the index's own folder: beside the index, or beside the file that the
    index is a link to (Hugging Face's cache keeps both as links into one folder).

    Raises:
        CheckpointError: The index is missing or broken, or names a file outside its folder.
    """
    try:
        with open_input(path) as file:
            if file.n_bytes > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: too large for an index: expected up to 100 MB")
            weight_map = from_json(parse_object(read_all(file)), _Index, name="index").weight_map
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not an index of shards: {error}") from error
    if not weight_map:
        raise CheckpointError(f"{path}: not an index of shards: its weight_map is empty")
    names: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        names.setdefault(shard, set()).add(name)
    return [Shard(path, _shard_path(path, one), frozenset(names[one])) for one in sorted(names)]


def _shard_path(index: Path, file: str) -> Path:
    shard = index.parent / file
    if isinstance(shard, RemotePath):
        if "/" in file or not file.strip("."):
            raise CheckpointError(
                f"{index}: it names a file outside its folder, {file!r:.100}; refused"
            )
        return shard
    try:
        folders = {index.parent.resolve(), index.resolve().parent}
        is_inside = any(shard.resolve().is_relative_to(folder) for folder in folders)
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself; no name of a file
        raise CheckpointError(
            f"{index}: it names no file that can be read: {file!r:.100}"
        ) from error
    if not is_inside or Path(file).is_absolute() or ".." in Path(file).parts:
        raise CheckpointError(
            f"{index}: it names a file outside its folder, {file!r:.100}; refused"
        )
    return shard


Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype name and shape by tensor name."""

SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the number of bytes that a text such as `5GB`, `500MB`, `2GiB` or `1000` means.

    Raises:
        ValueError: It means none.
    """
    match = SIZE.fullmatch(text.strip())
    n_bytes = 0
    if match is not None:
        number, prefix, binary = match.groups()
        base = 1024 if binary else 1000
        n_bytes = int(float(number) * base ** " KMGT".index(prefix.upper() or " "))
    if n_bytes < 1:
        raise ValueError(f"expected a size such as 5GB, 500MB or 1000000, found {text!r}")
    return n_bytes


def split_into_shards(tensors: Layout, max_bytes: int | None) -> dict[str, list[str]]:
    """Deal tensors to files of a limited size, as huggingface_hub does.

    In the order in which one file would hold them, a shard takes tensors until the next one does
    not fit. A tensor that is larger than the limit gets a shard of its own. Only names, dtypes and
    shapes matter. What fits into one file gets the name of one.

    Args:
        tensors: What there is to write.
        max_bytes: The most that the tensors of one file take; None for no limit.

    Returns:
        The tensors of each file by the name of the file.
    """
    _, places = build_header(tensors, {})
    shards: list[list[str]] = []
    current: list[str] = []
    n_bytes = 0
    for name, info in places.items():
        if max_bytes is not None and info.n_bytes > max_bytes:
            shards.append([name])
            continue
        if max_bytes is not None and n_bytes + info.n_bytes > max_bytes:
            shards.append(current)
            current, n_bytes = [], 0
        current.append(name)
        n_bytes += info.n_bytes
    if current:
        shards.append(current)
    if len(shards) == 1:
        return {WEIGHTS_FILE: shards[0]}
    stem = WEIGHTS_FILE.removesuffix(".safetensors")
    return {
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def build_index(shards: Mapping[str, Sequence[str]], tensors: Layout) -> bytes:
    """Return the index of shards, as JSON."""
    document = {
        "metadata": {"total_size": sum(tensor_bytes(*one) for one in tensors.values())},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
