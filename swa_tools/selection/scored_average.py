"""Average, recompute BatchNorm, score: the whole job over files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from swa_tools.averaging import AverageOptions, AverageResult
from swa_tools.batchnorm import Recomputation
from swa_tools.checkpoints import check_output
from swa_tools.data import ImageSet
from swa_tools.evaluation import CheckpointScores, Score, ScoredCheckpoint, evaluate_checkpoints
from swa_tools.selection.setting import Setting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAverage:
    """An average that was made ready for use.

    Attributes:
        average: What was averaged; None on the ranks that did not do it.
        recomputation: What the recompute of BatchNorm did.
        scores: The scores of the output, and beside it of what it is compared with; None without
            validation images.
        stale: What `scores` calls the average with averaged statistics; None where these were not
            scored.
        reference: What `scores` calls the checkpoint that the average is compared with; None
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
            ValueError: It was not scored.
        """
        if self.scores is None:
            raise ValueError("without validation images there is no score")
        return self.scores.checkpoints[0]

    def score_of(self, name: str) -> Score:
        """Return the score of what `scores` calls by that name."""
        if self.scores is None:
            raise ValueError("without validation images there is no score")
        return self.scores.evaluation.scores[name]

    def is_worse_than(self, name: str | None, *, level: float = 0.05) -> bool:
        """Tell whether fewer images are right than with another, in McNemar's paired test.

        Args:
            name: The other, as `scores` calls it; None for nothing to compare with.
            level: Largest p-value.
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

    In the same pass over the images the average is scored with its averaged statistics, so that
    nobody has to trust the recompute. The output appears when its statistics fit its weights.

    Args:
        paths: The checkpoints.
        output: Safetensors file to write.
        average: How the checkpoints are averaged.
        setting: What the average is made ready with.
        val: Images to score on; None to score nothing.
        reference: A checkpoint to score in the same pass, for comparison; left out where the
            evaluation names an entry.

    Raises:
        SwaToolsError: As the three stages do; nothing is written unless two of them are done.
    """
    check_output(output, force=average.force)
    evaluation = setting.evaluation
    with setting.shared_folder(output.parent) as folder:
        stale = folder / f"stale-{output.name}"
        result, recomputation = setting.make_ready(paths, output, stale=stale, average=average)
        if val is None:
            return ScoredAverage(average=result, recomputation=recomputation, scores=None)
        others = [stale] if recomputation.bn.state == "updated" else []
        # A file of ours has no entries, and all files of a pass are read alike.
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
