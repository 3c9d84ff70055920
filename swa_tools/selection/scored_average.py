"""Average, recompute BatchNorm, score: the whole job over files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from swa_tools.averaging import AverageOptions, AverageResult
from swa_tools.batchnorm import Recomputation
from swa_tools.checkpoints import check_weights_output
from swa_tools.data import ImageSet
from swa_tools.evaluation import CheckpointScores, Score, ScoredCheckpoint, evaluate_checkpoints
from swa_tools.selection.setting import Setting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAverage:
    """An average that is ready for use.

    Attributes:
        average: What was averaged; None on all ranks but the one that averaged.
        recomputation: What the recompute of BatchNorm did.
        scores: The scores of the output and of everything it is compared with; None without
            validation images.
        stale: The name in `scores` of the average with averaged statistics; None if it was not
            scored.
        reference: The name in `scores` of the checkpoint that the average is compared with; None
            without one.
    """

    average: AverageResult | None
    recomputation: Recomputation
    scores: CheckpointScores | None
    stale: str | None = None
    reference: str | None = None

    @property
    def output(self) -> ScoredCheckpoint:
        """The output and its score.

        Raises:
            ValueError: The output was not scored.
        """
        if self.scores is None:
            raise ValueError("without validation images there is no score")
        return self.scores.checkpoints[0]

    def score_of(self, name: str) -> Score:
        """Return the score under that name in `scores`."""
        if self.scores is None:
            raise ValueError("without validation images there is no score")
        return self.scores.evaluation.scores[name]

    def is_worse_than(self, name: str | None, *, level: float = 0.05) -> bool:
        """Tell whether the output is significantly worse than another, by McNemar's paired test.

        Args:
            name: The other's name in `scores`; None if there is nothing to compare with.
            level: The largest p-value that counts as significant.
        """
        if self.scores is None or name is None:
            return False
        mine, theirs = self.output.score, self.score_of(name)
        p_value = self.scores.evaluation.p_value(self.output.name, name)
        return mine.n_correct < theirs.n_correct and p_value <= level


def average_and_score(
    paths: Sequence[Path],
    output: Path,
    *,
    average: AverageOptions,
    setting: Setting,
    val: ImageSet | None,
    reference: Path | None = None,
) -> ScoredAverage:
    """Average checkpoints, recompute the average's BatchNorm statistics, and score it.

    In the same pass over the images the average is also scored with its averaged statistics, so
    that nobody has to trust the recompute. The output appears once its statistics fit its weights.

    Args:
        paths: The checkpoints.
        output: The safetensors file to write.
        average: How the checkpoints are averaged.
        setting: What the average is made ready with.
        val: Images to score on; None to score nothing.
        reference: A checkpoint to score in the same pass, for comparison; left out where the
            evaluation names an entry.

    Raises:
        SwaToolsError: As from each of the three stages; nothing is written before the second one
            is done.
    """
    check_weights_output(output, force=average.force, needs_metadata=True)
    evaluation = setting.evaluation
    with setting.shared_folder(output.parent) as folder:
        stale = folder / f"stale-{output.name}"
        result, recomputation = setting.make_ready(paths, output, stale=stale, average=average)
        if val is None:
            return ScoredAverage(average=result, recomputation=recomputation, scores=None)
        others = [stale] if recomputation.bn.state == "updated" else []
        # Our own files have no entries, and all files of a pass are read with the same options.
        if reference is not None and evaluation.entry is None:
            others.append(reference)
        scores = evaluate_checkpoints(
            [output, *others],
            val,
            options=dataclasses.replace(evaluation, entry=None, allow_stale_bn=True),
            context=setting.context,
            listener=setting.listener,
        )
    names = {one.path: one.name for one in scores.checkpoints}
    return ScoredAverage(
        average=result,
        recomputation=recomputation,
        scores=scores,
        stale=names.get(stale),
        reference=names.get(reference) if reference is not None else None,
    )
