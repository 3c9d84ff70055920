"""Average, recompute BatchNorm, score: the whole job over files."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from swa_tools.averaging import AverageOptions, Weighting, average_checkpoints
from swa_tools.batchnorm import BnOptions, BnReport, recompute
from swa_tools.checkpoints import CheckpointMetadata, check_output
from swa_tools.data import ImageSet
from swa_tools.distributed import Distributed
from swa_tools.evaluation import CheckpointScores, EvaluationOptions, evaluate_checkpoints
from swa_tools.models import load_checkpoint, save_state_dict

Watch = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAverage:
    """An average that was made ready for use.

    Attributes:
        path: The file.
        metadata: What it says of itself.
        bn: What the recompute of BatchNorm did.
        scores: Of this one file, on the validation images.
    """

    path: Path
    metadata: CheckpointMetadata
    bn: BnReport
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
        watch: Called with the name of a stage and its number of images; a context in which a
            function is called with the images done since its last call.

    Raises:
        SwaToolsError: As the three stages do.
    """
    watch = watch or _unwatched
    check_output(output, force=average.force)
    with _shared_folder(output.parent, context) as folder:
        stale = folder / output.name
        if context.is_main:
            average_checkpoints(
                paths, stale, weighting=weighting, include_init=include_init, options=average
            )
        context.barrier()
        built, metadata = load_checkpoint(
            stale,
            model=evaluation.model,
            kwargs=evaluation.model_kwargs,
            num_classes=evaluation.num_classes,
            image_size=evaluation.image_size,
        )
    module = built.module.to(context.device)
    with watch("recomputing BatchNorm", bn.n_samples or len(train)) as on_batch:
        recomputation = recompute(
            [module],
            train,
            preprocessing=built.preprocessing,
            options=bn,
            context=context,
            on_batch=on_batch,
        )
    described = dataclasses.replace(
        cast("CheckpointMetadata", metadata),
        model=built.info,
        preprocessing=built.preprocessing,
        bn=recomputation.bn,
    )
    if context.is_main:
        save_state_dict(output, module.state_dict(), described, force=average.force)
    context.barrier()
    with watch("evaluating", len(val)) as on_batch:
        scores = evaluate_checkpoints(
            [output], val, options=evaluation, context=context, on_batch=on_batch
        )
    return ScoredAverage(
        path=output, metadata=described, bn=recomputation.reports[0], scores=scores
    )


def _unwatched(_stage: str, _n_images: int) -> AbstractContextManager[Callable[[int], None]]:
    return contextlib.nullcontext(lambda _n: None)


@contextlib.contextmanager
def _shared_folder(parent: Path, context: Distributed) -> Iterator[Path]:
    """Make a temporary folder on rank 0, for all ranks, and remove it when they are done."""
    with contextlib.ExitStack() as stack:
        folder = None
        if context.is_main:
            temporary = tempfile.TemporaryDirectory(prefix=".swa-tools-", dir=parent)
            folder = Path(stack.enter_context(temporary))
        yield Path(context.broadcast(str(folder)))
        context.barrier()
