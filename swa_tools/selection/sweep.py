"""Score the averages of the first n and of the last n checkpoints, for every n.

This gives the numbers behind "5 epochs" and "10 epochs" in Table 2 of the paper, and the curve of
Figure 6.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from swa_tools.averaging import iterate_running
from swa_tools.data import ImageSet
from swa_tools.evaluation import Score
from swa_tools.models import from_arrays
from swa_tools.selection.setting import Setting
from swa_tools.selection.trial import open_trial

End = Literal["first", "last"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One average and its score.

    Attributes:
        end: Whether the first or the last checkpoints were averaged.
        sources: The checkpoints that were averaged.
        bn: State of its BatchNorm statistics: `updated`, or `none` without BatchNorm.
        score: The average's score.
    """

    end: End
    sources: tuple[Path, ...]
    bn: str
    score: Score

    @property
    def n(self) -> int:
        """Number of checkpoints in the average."""
        return len(self.sources)

    @property
    def name(self) -> str:
        """The average's name in tables and records, such as `last-003`."""
        return f"{self.end}-{self.n:03d}"


def sweep(paths: Sequence[Path], images: ImageSet, setting: Setting) -> list[SweepPoint]:
    """Score the averages of the first 1, 2, …, N checkpoints and of the last 1, 2, …, N.

    Nothing is written. Every checkpoint is read once for each end, and `evaluation.at_once`
    averages share a pass over the images.

    Args:
        paths: The checkpoints, in their order.
        images: Images to score on, their classes not mapped yet.
        setting: What the averages are made ready with.

    Returns:
        The averages of the first n, then those of the last n; the average of all is in both.

    Raises:
        SwaToolsError: As from `average_checkpoints`, `recompute` and `evaluate`.
    """
    trial = open_trial(paths[0], images, setting)
    evaluation, listener = setting.evaluation, setting.listener
    for line in trial.notices:
        listener.on_notice(line)
    n_groups = math.ceil((2 * len(paths) - 1) / evaluation.at_once)
    averages = _averages(paths, entry=evaluation.entry)
    points = []
    with listener.on_stage("sweeping", n_groups * trial.n_images) as advance:
        while group := list(itertools.islice(averages, evaluation.at_once)):
            names = [f"average of the {end} {len(sources)}" for end, sources, _ in group]
            weights = dict(zip(names, (tensors for *_, tensors in group), strict=True))
            scores = trial.score(weights, advance=advance)
            points += [
                SweepPoint(end=end, sources=sources, bn=trial.bn_state, score=scores[name])
                for name, (end, sources, _) in zip(names, group, strict=True)
            ]
    return [*points, dataclasses.replace(points[len(paths) - 1], end="last")]


def _averages(
    paths: Sequence[Path], *, entry: str | None
) -> Iterator[tuple[End, tuple[Path, ...], dict[str, torch.Tensor]]]:
    """Yield the averages of the first 1 … N checkpoints, then those of the last 1 … N−1."""
    for n, arrays in enumerate(iterate_running(paths, entry=entry), start=1):
        yield "first", tuple(paths[:n]), from_arrays(arrays, where=f"first {n}")
    backwards = iterate_running(paths, reverse=True, entry=entry)
    for n, arrays in zip(range(1, len(paths)), backwards, strict=False):
        yield "last", tuple(paths[-n:]), from_arrays(arrays, where=f"last {n}")
