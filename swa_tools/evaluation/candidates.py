"""The files to score together: whether they belong together and may be scored."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from swa_tools.checkpoints import CheckpointMetadata, open_checkpoint
from swa_tools.errors import CheckpointError
from swa_tools.models import ModelChoice, has_batchnorm
from swa_tools.models.building import resized
from swa_tools.run_directory import run_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file to be scored.

    Attributes:
        path: The file.
        name: The file's own name, or its path where another file has that name, too.
        digest: Content digest of its tensors.
        metadata: What the file says about itself; None for a file from another tool.
    """

    path: Path
    name: str
    digest: str
    metadata: CheckpointMetadata | None

    @property
    def kind(self) -> str:
        """`checkpoint`, `average` or `soup`; in a run directory also `start` and `ema`."""
        kind = self.metadata.kind if self.metadata is not None else "checkpoint"
        run = run_of(self.path) if kind == "checkpoint" else None
        if run is not None and self.path.absolute() == run.start:
            return "start"
        if run is not None and self.path.absolute().parent == run.ema:
            return "ema"
        return kind

    @property
    def is_capture(self) -> bool:
        """Whether the file was taken at the minimum of a cycle."""
        training = self.metadata.training if self.metadata is not None else None
        return training is not None and training.cycle is not None

    @property
    def says_its_model(self) -> bool:
        """Whether the file needs no `--model`."""
        return self.metadata is not None and self.metadata.model is not None

    def bn_state(self, module: nn.Module) -> str:
        """Return the state of the file's BatchNorm statistics, as in `BnInfo`.

        Args:
            module: The network that the file belongs to.
        """
        if not has_batchnorm(module):
            return "none"
        return self.metadata.bn.state if self.metadata is not None else "unknown"


def open_candidates(
    paths: Sequence[Path], choice: ModelChoice
) -> tuple[list[Candidate], list[str]]:
    """Open each file once; links, copies and files with the same tensors are left out.

    Args:
        paths: From `checkpoints.find_checkpoints`.
        choice: Which weights to take from pickled files that hold several, and the input size.

    Returns:
        The files, and one line for each that was left out.

    Raises:
        CheckpointError: A file cannot be read, or belongs to another model than an earlier one.
    """
    n_uses = collections.Counter(path.name for path in paths)
    by_digest: dict[str, Candidate] = {}
    notices = []
    for path in paths:
        with open_checkpoint(path, entry=choice.entry) as checkpoint:
            candidate = Candidate(
                path=path,
                name=path.name if n_uses[path.name] == 1 else str(path),
                digest=checkpoint.digest(),
                metadata=checkpoint.metadata,
            )
        first = by_digest.setdefault(candidate.digest, candidate)
        if first is not candidate:
            notices.append(f"{path}: has the same tensors as {first.path}; counted once")
    candidates = list(by_digest.values())
    _check_same_model(candidates, choice.image_size)
    return candidates, notices


def check_bn(candidates: Sequence[Candidate], module: nn.Module) -> list[str]:
    """Refuse averages whose BatchNorm statistics were not recomputed.

    Returns:
        A line for the user about files whose statistics may not fit; none if there are none.

    Raises:
        CheckpointError: A file has stale statistics.
    """
    for candidate in candidates:
        if candidate.bn_state(module) == "stale":
            raise CheckpointError(
                f"{candidate.path}: its BatchNorm statistics are stale (averaged, not measured for"
                f" these weights); first run swa-tools update-bn {candidate.path} --data DIR -o"
                " FILE, or give --allow-stale-bn"
            )
    unknown = [one.name for one in candidates if one.bn_state(module) == "unknown"]
    if not unknown:
        return []
    line = (
        f"{', '.join(unknown)}: weights from another tool; if they are an average, the BatchNorm"
        " statistics may not fit them (swa-tools update-bn)"
    )
    return [line]


def _check_same_model(candidates: Sequence[Candidate], image_size: int | None) -> None:
    first: tuple[Candidate, CheckpointMetadata] | None = None
    for candidate in candidates:
        metadata = candidate.metadata
        if metadata is None or metadata.model is None:
            continue
        if image_size is not None and metadata.preprocessing is not None:
            preprocessing = resized(metadata.preprocessing, image_size)
            metadata = dataclasses.replace(metadata, preprocessing=preprocessing)
        if first is None:
            first = candidate, metadata
        for part in ("model", "preprocessing"):
            expected, found = getattr(first[1], part), getattr(metadata, part)
            if expected != found:
                raise CheckpointError(
                    f"{candidate.path}: has another {part} than {first[0].path}: expected"
                    f" {expected}, found {found}; score them in separate commands"
                )
