"""What averages are made ready for use with: images, and how the work on them is done."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from swa_tools.averaging import AverageOptions, AverageResult, average_checkpoints
from swa_tools.batchnorm import BnOptions, Recomputation, update_checkpoint
from swa_tools.checkpoints.metadata import Kind
from swa_tools.data import ImageSet
from swa_tools.distributed import Distributed
from swa_tools.evaluation import EvaluationOptions
from swa_tools.listening import Listener


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all averages of a piece of work have in common.

    Attributes:
        train: Images to recompute BatchNorm on.
        bn: How the statistics are measured.
        evaluation: How weights are scored, and which model they belong to where the checkpoints do
            not say it.
        context: The processes that share the work.
        listener: Who hears how far it is.
    """

    train: ImageSet
    bn: BnOptions
    evaluation: EvaluationOptions
    context: Distributed
    listener: Listener = dataclasses.field(default_factory=Listener)

    def make_ready(
        self,
        paths: Sequence[Path],
        output: Path,
        *,
        stale: Path,
        average: AverageOptions,
        kind: Kind = "average",
    ) -> tuple[AverageResult | None, Recomputation]:
        """Average checkpoints and recompute the average's BatchNorm; rank 0 averages and writes.

        Args:
            paths: The checkpoints.
            output: Safetensors file to write.
            stale: Another, for the average before the recompute.
            average: How the checkpoints are averaged.
            kind: What the metadata calls the output.

        Returns:
            What was averaged, on rank 0, and what the recompute did.

        Raises:
            SwaToolsError: As `average_checkpoints` and `update_checkpoint`.
        """
        result = None
        if self.context.is_main:
            result = average_checkpoints(paths, stale, kind=kind, options=average)
        self.context.barrier()
        recomputation = update_checkpoint(
            stale,
            output,
            self.train,
            options=self.bn,
            context=self.context,
            choice=dataclasses.replace(self.evaluation, entry=None),  # a file of ours has none
            force=average.force,
            listener=self.listener,
        )
        return result, recomputation

    @contextlib.contextmanager
    def shared_folder(self, parent: Path) -> Iterator[Path]:
        """Make a temporary folder on rank 0, for all ranks, and remove it when they are done."""
        with contextlib.ExitStack() as stack:
            folder = None
            if self.context.is_main:
                temporary = tempfile.TemporaryDirectory(prefix=".swa-tools-", dir=parent)
                folder = stack.enter_context(temporary)
            yield Path(self.context.broadcast(str(folder)))
            self.context.barrier()
