"""Find checkpoints with the same weights: links, copies, `last` beside the epoch it repeats."""

import collections
import dataclasses
import os
from collections.abc import Sequence

from swa_tools.checkpoints import Checkpoint

SAMPLE_BYTES = 4096
N_SAMPLES = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicate:
    """A checkpoint that does not count, and the one that it repeats."""

    checkpoint: Checkpoint
    original: Checkpoint


def find_duplicates(checkpoints: Sequence[Checkpoint]) -> list[Duplicate]:
    """Return the checkpoints whose tensors are those of an earlier one.

    A file that is named twice or linked is recognised by its inode. For the others, a few samples
    of 4 KiB are compared, and only checkpoints whose samples agree are read whole.

    Raises:
        CheckpointError: A checkpoint cannot be read.
    """
    found = []
    by_file: dict[tuple[tuple[int, int], ...], Checkpoint] = {}
    by_sample: dict[bytes, list[Checkpoint]] = collections.defaultdict(list)
    digests: dict[int, str] = {}

    def digest(checkpoint: Checkpoint) -> str:
        if id(checkpoint) not in digests:
            digests[id(checkpoint)] = checkpoint.digest()
        return digests[id(checkpoint)]

    for checkpoint in checkpoints:
        original = by_file.setdefault(_inodes(checkpoint), checkpoint)
        if original is checkpoint:
            alike = by_sample[_sample(checkpoint)]
            same = (other for other in alike if digest(other) == digest(checkpoint))
            original = next(same, checkpoint)
            alike.append(checkpoint)
        if original is not checkpoint:
            found.append(Duplicate(checkpoint, original))
    return found


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
