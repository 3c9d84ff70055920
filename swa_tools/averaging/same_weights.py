"""Find checkpoints with the same weights: links, copies, `last` beside the epoch it repeats."""

import collections
import dataclasses
import os
from collections.abc import Hashable, Sequence
from pathlib import Path

from swa_tools.checkpoints import Checkpoint
from swa_tools.checkpoints.names import without_a_number
from swa_tools.checkpoints.remote import RemotePath, in_parallel

SAMPLE_BYTES = 4096
N_SAMPLES = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicate:
    """A checkpoint that does not count, and the one that it repeats."""

    checkpoint: Checkpoint
    original: Checkpoint


def find_duplicates(checkpoints: Sequence[Checkpoint]) -> list[Duplicate]:
    """Return the checkpoints whose tensors are those of another, in their order.

    Of several with the same weights the first counts whose name has a number (`epoch-9`, not
    `best`), or else the first. A file that is named twice or linked is recognised by its inode. For
    the others, a few samples of 4 KiB are compared, and only checkpoints whose samples agree are
    read whole.

    Raises:
        CheckpointError: A checkpoint cannot be read.
    """
    unnumbered = set(without_a_number(sorted({checkpoint.name for checkpoint in checkpoints})))
    found = []
    for same in _groups(checkpoints):
        original = next((one for one in same if one.name not in unnumbered), same[0])
        found += [Duplicate(one, original) for one in same if one is not original]
    place = {id(checkpoint): i for i, checkpoint in enumerate(checkpoints)}
    return sorted(found, key=lambda duplicate: place[id(duplicate.checkpoint)])


def _groups(checkpoints: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """Put together what holds the same weights."""
    by_file: dict[Hashable, list[Checkpoint]] = collections.defaultdict(list)
    for checkpoint in checkpoints:
        by_file[tuple(map(_identity, checkpoint.files))].append(checkpoint)
    by_sample: dict[bytes, list[list[Checkpoint]]] = collections.defaultdict(list)
    different = list(by_file.values())
    firsts = [same[0] for same in different]
    is_remote = any(isinstance(first.path, RemotePath) for first in firsts)
    samples = in_parallel(_sample, firsts) if is_remote else map(_sample, firsts)
    for same, sample in zip(different, samples, strict=True):
        by_sample[sample].append(same)
    groups: list[list[Checkpoint]] = []
    for alike in by_sample.values():
        by_digest: dict[str, list[Checkpoint]] = collections.defaultdict(list)
        for same in alike:
            by_digest[same[0].digest() if len(alike) > 1 else ""] += same
        groups += by_digest.values()
    return groups


def _identity(path: Path) -> Hashable:
    """Return what names of the same file have in common."""
    if isinstance(path, RemotePath):
        return path
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _sample(checkpoint: Checkpoint) -> bytes:
    """Read the middle of the largest tensors; training changes nearly every weight it touches."""
    largest = sorted(checkpoint.tensors, key=lambda n: (-checkpoint.tensors[n].n_bytes, n))
    sizes = {name: checkpoint.tensors[name].n_bytes for name in largest[:N_SAMPLES]}
    parts = {
        name: (max(n_bytes - SAMPLE_BYTES, 0) // 2, min(n_bytes, SAMPLE_BYTES))
        for name, n_bytes in sizes.items()
    }
    checkpoint.will_read((name, *part) for name, part in parts.items())
    data = bytearray()
    for name, (offset, n_bytes) in parts.items():
        part = bytearray(n_bytes)
        checkpoint.read_into(name, offset, memoryview(part))
        data += f"{name}\0{checkpoint.tensors[name].shape}".encode() + part
    return bytes(data)
