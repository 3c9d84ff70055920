"""Average, recompute BatchNorm, score: the whole job over files."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from swa_tools.averaging import AverageOptions, AverageResult, Weighting, average_checkpoints
from swa_tools.batchnorm import BnOptions, Recomputation, update_checkpoint
from swa_tools.checkpoints import check_output
from swa_tools.data import ImageSet
from swa_tools.distributed import Distributed
from swa_tools.evaluation import CheckpointScores, EvaluationOptions, evaluate_checkpoints

Watch = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""From a stage's name and the images of it to a context, which gives a function to call with the
images done since its last call."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAverage:
    """An average that was made ready for use.

    Attributes:
        average: What was averaged; None on the ranks that did not do it.
        recomputation: What the recompute of BatchNorm did.
        scores: Of the output alone, on the validation images.
    """

    average: AverageResult | None
    recomputation: Recomputation
    scores: CheckpointScores


def average_and_score(
    paths: Sequence[Path],
    output: Path,
    *,
    train: ImageSet,
    val: ImageSet,
    weighting: Weighting | None = None,
    include_init: bool = False,
    average: AverageOptions,
    bn: BnOptions,
    evaluation: EvaluationOptions,
    context: Distributed,
    watch: Watch | None = None,
) -> ScoredAverage:
    """Average checkpoints, recompute the average's BatchNorm statistics, and score it.

    The output appears when its statistics fit its weights. Rank 0 averages and writes.

    Args:
        paths: The checkpoints.
        output: Safetensors file to write.
        train: Images to recompute BatchNorm on.
        val: Images to score on.
        weighting: As in `average_checkpoints`.
        include_init: The same.
        average: Its options.
        bn: How the statistics are measured.
        evaluation: How the average is scored, and which model it belongs to where the checkpoints
            do not say it.
        context: The processes that share the work.
        watch: Shows how far each stage is.

    Raises:
        SwaToolsError: As the three stages do; nothing is written unless two of them are done.
    """
    watch = watch or unwatched
    check_output(output, force=average.force)
    result = None
    with shared_folder(output.parent, context) as folder:
        stale = folder / output.name
        if context.is_main:
            result = average_checkpoints(
                paths, stale, weighting=weighting, include_init=include_init, options=average
            )
        context.barrier()
        with watch("recomputing BatchNorm", min(bn.n_samples or len(train), len(train))) as done:
            recomputation = update_checkpoint(
                stale,
                output,
                train,
                options=bn,
                context=context,
                model=evaluation.model,
                model_kwargs=evaluation.model_kwargs,
                num_classes=evaluation.num_classes,
                image_size=evaluation.image_size,
                force=average.force,
                on_batch=done,
            )
    with watch("evaluating", len(val)) as done:
        # The weights are in a safetensors file of ours by now, which has no entries.
        evaluation = dataclasses.replace(evaluation, entry=None)
        scores = evaluate_checkpoints(
            [output], val, options=evaluation, context=context, on_batch=done
        )
    return ScoredAverage(average=result, recomputation=recomputation, scores=scores)


def unwatched(_stage: str, _n_images: int) -> AbstractContextManager[Callable[[int], None]]:
    """Be the `Watch` that shows nothing."""
    return contextlib.nullcontext(lambda _: None)


@contextlib.contextmanager
def shared_folder(parent: Path, context: Distributed) -> Iterator[Path]:
    """Make a temporary folder on rank 0, for all ranks, and remove it when they are done."""
    with contextlib.ExitStack() as stack:
        folder = None
        if context.is_main:
            temporary = tempfile.TemporaryDirectory(prefix=".swa-tools-", dir=parent)
            folder = stack.enter_context(temporary)
        yield Path(context.broadcast(str(folder)))
        context.barrier()
