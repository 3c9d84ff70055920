"""Greedy soup (Wortsman et al. 2022, arXiv:2203.05482, recipe 1).

Checkpoints are ranked by their own top-1 on held-out images. In that order, each is added to the
average if the average's top-1 on these images does not fall; otherwise it is left out.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from swa_tools.averaging import AverageOptions, RunningMean
from swa_tools.batchnorm import Recomputation
from swa_tools.checkpoints import check_weights_output
from swa_tools.data import ImageSet
from swa_tools.evaluation import Score, evaluate_checkpoints
from swa_tools.models import from_arrays, load_state_dict, to_arrays
from swa_tools.selection.setting import Setting
from swa_tools.selection.trial import Trial, open_trial


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SoupStep:
    """What happened to one candidate.

    Attributes:
        path: The candidate's file.
        alone: The candidate's own score.
        together: The score of the soup so far with this candidate added, BatchNorm recomputed.
        is_taken: Whether the candidate is in the soup.
    """

    path: Path
    alone: Score
    together: Score
    is_taken: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GreedySoup:
    """How a soup was chosen.

    Attributes:
        steps: The candidates, best first; the first is always taken.
        recomputation: What the recompute of BatchNorm did to the soup that was written.
    """

    steps: tuple[SoupStep, ...]
    recomputation: Recomputation

    @property
    def taken(self) -> list[SoupStep]:
        """The candidates that are in the soup, in the order in which they were added."""
        return [step for step in self.steps if step.is_taken]


def greedy_soup(
    paths: Sequence[Path],
    output: Path,
    *,
    held_out: ImageSet,
    setting: Setting,
    trial_samples: int,
    force: bool = False,
) -> GreedySoup:
    """Choose the checkpoints of a soup, average them and recompute BatchNorm.

    Memory holds one candidate and the sum of those taken, however many there are. Files with the
    same tensors count once; of candidates with equal scores the earlier goes first. Rank 0 writes.

    Args:
        paths: The candidates.
        output: The safetensors file to write.
        held_out: Images to choose by, their classes not mapped yet.
        setting: What the output is made ready with; its images are others.
        trial_samples: The most images that the statistics of a soup on trial are measured on.
        force: Whether an existing output may be replaced.

    Raises:
        SwaToolsError: As from `evaluate_checkpoints`, `average_checkpoints` and
            `update_checkpoint`; nothing is written then.
    """
    check_weights_output(output, force=force, needs_metadata=True)
    n_samples = min(trial_samples, setting.bn.n_samples or trial_samples)
    on_trial = dataclasses.replace(setting.bn, n_samples=n_samples)
    trial = open_trial(paths[0], held_out, dataclasses.replace(setting, bn=on_trial))
    steps = _choose(paths, held_out, trial)
    with setting.shared_folder(output.parent) as folder:
        _, recomputation = setting.make_ready(
            [step.path for step in steps if step.is_taken],
            output,
            stale=folder / output.name,
            average=AverageOptions(entry=setting.evaluation.entry, force=force),
            kind="soup",
        )
    return GreedySoup(steps=tuple(steps), recomputation=recomputation)


def _choose(paths: Sequence[Path], held_out: ImageSet, trial: Trial) -> list[SoupStep]:
    setting = trial.setting
    alone = evaluate_checkpoints(
        paths,
        held_out,
        options=setting.evaluation,
        context=setting.context,
        listener=setting.listener,
        stage="scoring the candidates",
    )
    ranked = sorted(alone.checkpoints, key=lambda one: -one.score.n_correct)
    soup, best = RunningMean(), 0
    steps: list[SoupStep] = []
    with setting.listener.on_stage("trying soups", len(ranked) * trial.n_images) as advance:
        for candidate in ranked:
            arrays = to_arrays(load_state_dict(candidate.path, entry=setting.evaluation.entry))
            name = f"the soup with {candidate.name}"
            mean = from_arrays(soup.mean_with(arrays, where=str(candidate.path)), where=name)
            together = trial.score({name: mean}, advance=advance)[name]
            is_taken = not steps or together.n_correct >= best
            if is_taken:
                soup.add(arrays, where=str(candidate.path))
                best = together.n_correct
            step = SoupStep(
                path=candidate.path, alone=candidate.score, together=together, is_taken=is_taken
            )
            steps.append(step)
    return steps
