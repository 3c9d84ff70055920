"""Find checkpoints with the same weights: links, copies, `last` beside the epoch it repeats."""

import collections
import dataclasses
import os
from collections.abc import Sequence

from swa_tools.checkpoints import Checkpoint
from swa_tools.checkpoints.names import without_a_number

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
    by_file: dict[tuple[tuple[int, int], ...], list[Checkpoint]] = collections.defaultdict(list)
    for checkpoint in checkpoints:
        by_file[_inodes(checkpoint)].append(checkpoint)
    by_sample: dict[bytes, list[list[Checkpoint]]] = collections.defaultdict(list)
    for same in by_file.values():
        by_sample[_sample(same[0])].append(same)
    groups: list[list[Checkpoint]] = []
    for alike in by_sample.values():
        by_digest: dict[str, list[Checkpoint]] = collections.defaultdict(list)
        for same in alike:
            by_digest[same[0].digest() if len(alike) > 1 else ""] += same
        groups += by_digest.values()
    return groups


def _inodes(checkpoint: Checkpoint) -> tuple[tuple[int, int], ...]:
    status = [os.stat(path) for path in checkpoint.files]
    return tuple((one.st_dev, one.st_ino) for one in status)


def _sample(checkpoint: Checkpoint) -> bytes:
    """Read the middle of the largest tensors; training changes nearly every weight it touches."""
    largest = sorted(checkpoint.tensors, key=lambda n: (-checkpoint.tensors[n].n_bytes, n))
    data = bytearray()
    for name in largest[:N_SAMPLES]:
        n_bytes = checkpoint.tensors[name].n_bytes
        part = bytearray(min(n_bytes, SAMPLE_BYTES))
        checkpoint.read_into(name, (n_bytes - len(part)) // 2, memoryview(part))
        data += f"{name}\0{checkpoint.tensors[name].shape}".encode() + part
    return bytes(data)
