"""What is in a checkpoint, from its header alone; its digests, where they are asked for."""

import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from swa_tools.checkpoints.metadata import CheckpointMetadata, SourceInfo
from swa_tools.checkpoints.reader import Checkpoint


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """One checkpoint.

    Attributes:
        path: As it was given.
        n_tensors: Number of tensors.
        n_elements: Number of their elements, BatchNorm's statistics included.
        n_bytes: Bytes of their data.
        dtypes: Number of tensors by dtype, the most frequent first.
        metadata: What swa-tools wrote about it; None for somebody else's file.
        notes: What was changed in reading it.
        digest: Content digest, where it was asked for.
    """

    path: Path
    n_tensors: int
    n_elements: int
    n_bytes: int
    dtypes: dict[str, int]
    metadata: CheckpointMetadata | None
    notes: tuple[str, ...]
    digest: str | None = None

    @property
    def bn(self) -> str:
        """State of the BatchNorm statistics."""
        return self.metadata.bn.state if self.metadata else "unknown"


def inspect_checkpoint(checkpoint: Checkpoint, *, digest: bool = False) -> Inspection:
    """Describe an open checkpoint.

    Args:
        checkpoint: From `open_checkpoint`.
        digest: Whether to compute its content digest, which reads all of it.

    Raises:
        CheckpointError: It cannot be read.
    """
    infos = checkpoint.tensors.values()
    dtypes = collections.Counter(info.dtype for info in infos)
    return Inspection(
        path=checkpoint.path,
        n_tensors=len(infos),
        n_elements=sum(info.n_elements for info in infos),
        n_bytes=checkpoint.n_bytes,
        dtypes=dict(dtypes.most_common()),
        metadata=checkpoint.metadata,
        notes=checkpoint.notes,
        digest=checkpoint.digest() if digest else None,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class SourceCheck:
    """Whether a source of an average is still what was averaged.

    Attributes:
        average: The file that names the source.
        source: What it says of it.
        found: The digest of the file of that name now; None if there is no such file at hand.
    """

    average: Path
    source: SourceInfo
    found: str | None

    @property
    def is_same(self) -> bool | None:
        """Whether the digests agree; None if the file is not at hand."""
        return None if self.found is None else self.found == self.source.digest


def check_sources(inspections: Iterable[Inspection]) -> list[SourceCheck]:
    """Compare the sources that averages name with the files of these names among the inspected.

    Args:
        inspections: Of averages and their sources, with digests.
    """
    inspections = list(inspections)
    digests = {inspection.path.name: inspection.digest for inspection in inspections}
    return [
        SourceCheck(inspection.path, source, digests.get(source.name))
        for inspection in inspections
        if inspection.metadata and inspection.metadata.average
        for source in inspection.metadata.average.sources
    ]
