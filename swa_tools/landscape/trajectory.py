"""The path of a run through weight space, and whether it explores or still descends (section 3.6).

Computed from the files alone, streaming, without torch.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from swa_tools.averaging import open_all
from swa_tools.checkpoints import Checkpoint
from swa_tools.errors import CheckpointError
from swa_tools.landscape.geometry import parameter_names, read_block

Array = npt.NDArray[np.float64]

BLOCK_NUMBERS = 2**21
"""How many numbers of all checkpoints together are in memory at a time, in float64."""

MIN_CAPTURES = 3
"""Fewer captures have no two successive steps."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """Lengths and angles among n captures w₁ … wₙ, their mean w̄, and the start.

    Attributes:
        names: Names of the captures.
        n_parameters: Dimension of the space: how many numbers the parameters hold.
        norms: ‖wᵢ‖, (n,).
        squared_distances: ‖wᵢ − wⱼ‖², (n, n).
        to_mean: ‖wᵢ − w̄‖, (n,).
        mean_norm: ‖w̄‖.
        step_cosines: Cosine between the step to each capture and the step from it, (n − 2,).
        deviation_cosines: Cosine between wᵢ − w̄ and wᵢ₊₁ − w̄, (n − 1,).
        start: Name of the starting point; None if there is none.
        to_start: ‖wᵢ − start‖, (n,); empty without a start.
        start_norm, start_to_mean: ‖start‖ and ‖start − w̄‖; None without a start.
    """

    names: tuple[str, ...]
    n_parameters: int
    norms: Array
    squared_distances: Array
    to_mean: Array
    mean_norm: float
    step_cosines: Array
    deviation_cosines: Array
    start: str | None
    to_start: Array
    start_norm: float | None
    start_to_mean: float | None

    @property
    def steps(self) -> Array:
        """‖wᵢ₊₁ − wᵢ‖, (n − 1,)."""
        result: Array = np.sqrt(np.diagonal(self.squared_distances, offset=1))
        return result


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """A measured quantity, and what three kinds of motion would give for it.

    Attributes:
        measured: What the captures give for it.
        independent: What independent samples around a centre would give.
        random_walk: What independent steps would give.
        straight: What straight motion at constant speed would give.
    """

    measured: float
    independent: float
    random_walk: float
    straight: float


def trajectory(
    captures: Sequence[str | Path], *, start: str | Path | None = None, entry: str | None = None
) -> Trajectory:
    """Measure the path through checkpoints, in their order; every byte is read once.

    Distances are between parameters. They are computed in float64, relative to the first capture,
    so that they keep their digits even if steps are small compared with the weights.

    Args:
        captures: The checkpoints, at least three.
        start: The starting point of the run.
        entry: Which weights to take from pickled files that hold several.

    Raises:
        CheckpointError: There are fewer than three captures, or the files do not belong together.
    """
    if len(captures) < MIN_CAPTURES:
        raise CheckpointError(
            f"a trajectory needs at least {MIN_CAPTURES} checkpoints, found {len(captures)}"
        )
    paths = [*captures, *([] if start is None else [start])]
    with open_all(paths, entry=entry) as checkpoints:
        gram, squared_norms, n_parameters = _gram(checkpoints)
        names = [checkpoint.name for checkpoint in checkpoints]
    if not np.isfinite(gram).all():
        bad = checkpoints[int(np.argmin(np.isfinite(np.diagonal(gram))))].path
        raise CheckpointError(
            f"{bad}: its parameters contain NaN or Inf; leave this checkpoint out"
        )
    return _measure(names, gram, squared_norms, n_parameters, n_captures=len(captures))


def _gram(checkpoints: Sequence[Checkpoint]) -> tuple[Array, Array, int]:
    """Return ⟨wᵢ − w₁, wⱼ − w₁⟩, the squared norms ‖wᵢ‖², and the number of parameters."""
    n = len(checkpoints)
    gram, squared_norms, n_parameters = np.zeros((n, n)), np.zeros(n), 0
    width = max(1, BLOCK_NUMBERS // n)
    for name in parameter_names(checkpoints):
        n_elements = math.prod(checkpoints[0].tensors[name].shape)
        for first in range(0, n_elements, width):
            size = min(width, n_elements - first)
            block = np.stack([read_block(one, name, first, size) for one in checkpoints])
            n_parameters += block.shape[1]
            squared_norms += np.einsum("ij,ij->i", block, block)
            block -= block[0].copy()
            gram += block @ block.T
    return gram, squared_norms, n_parameters


def _measure(
    names: Sequence[str], gram: Array, squared_norms: Array, n_parameters: int, *, n_captures: int
) -> Trajectory:
    n = n_captures
    diagonal = np.diagonal(gram)
    squared = np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * gram, 0)
    centering = np.eye(len(gram))
    centering[:, :n] -= 1 / n  # rows are coefficients of wᵢ − w̄
    centred = centering @ gram @ centering.T
    deviations = np.sqrt(np.maximum(np.diagonal(centred), 0))
    steps = np.diff(np.eye(n), axis=0)
    step_gram = steps @ gram[:n, :n] @ steps.T
    has_start = len(gram) > n
    # ‖w̄‖² = mean ‖wᵢ‖² − mean ‖wᵢ − w̄‖²: both terms are known to their last digits.
    mean_norm = math.sqrt(
        max(0.0, float(np.mean(squared_norms[:n]) - np.mean(deviations[:n] ** 2)))
    )
    return Trajectory(
        names=tuple(names[:n]),
        n_parameters=n_parameters,
        norms=np.sqrt(squared_norms[:n]),
        squared_distances=squared[:n, :n],
        to_mean=deviations[:n],
        mean_norm=mean_norm,
        step_cosines=_neighbour_cosines(step_gram),
        deviation_cosines=_neighbour_cosines(centred[:n, :n]),
        start=names[n] if has_start else None,
        to_start=np.sqrt(squared[:n, n]) if has_start else np.empty(0),
        start_norm=float(np.sqrt(squared_norms[n])) if has_start else None,
        start_to_mean=float(deviations[n]) if has_start else None,
    )


def _neighbour_cosines(gram: Array) -> Array:
    """Return the cosine between each vector and the next; NaN where one has no length."""
    lengths = np.sqrt(np.maximum(np.diagonal(gram), 0))
    # A vector this short is zero up to the rounding of the weights: its direction means nothing.
    lengths[lengths < 1e-3 * lengths.max(initial=0)] = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = np.diagonal(gram, offset=1) / (lengths[:-1] * lengths[1:])
    return result


def lag_profile(path: Trajectory) -> Array:
    """Return the mean squared distance between captures k apart over that of all pairs, (n − 1,).

    k is 1 … n − 1. For independent samples the ratio is 1 for every k; it grows with k as long as
    the run moves on.
    """
    n = len(path.names)
    total = np.sum(path.squared_distances) / (n * (n - 1))
    lags = [np.mean(np.diagonal(path.squared_distances, offset=k)) for k in range(1, n)]
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = np.array(lags) / total
    return result


def trace_of(path: Trajectory) -> float:
    """Return trΣ of the captures' covariance, estimated without bias: Σ‖wᵢ − w̄‖²/(n − 1)."""
    return float(np.sum(path.to_mean**2)) / (len(path.names) - 1)


def explore(path: Trajectory) -> dict[str, Exploration]:
    """Compare the captures with independent samples, a random walk and straight motion.

    For n independent samples around a centre, with covariance Σ, the squared distance to the mean
    is (1 − 1/n)·trΣ, the squared distance between two samples is 2·trΣ, and the cosine of two
    deviations is −1/(n − 1) (section 3.6). Averaged over all pairs, these hold for any points at
    all. So the question is whether they hold for neighbours:

    - `neighbour_distance`: the squared distance between neighbours over 2·trΣ, with trΣ from the
      deviations;
    - `deviation_cosine`: the mean cosine of neighbours' deviations;
    - `step_cosine`: the mean cosine of successive steps.
    """
    n = len(path.names)
    walk, line = _walk_deviation_cosine(n), _line_deviation_cosine(n)
    trace = trace_of(path)
    neighbours = float(np.mean(path.steps**2))
    return {
        "neighbour_distance": Exploration(
            measured=neighbours / (2 * trace) if trace else math.nan,
            independent=1.0,
            random_walk=3 / (n + 1),
            straight=6 / (n * (n + 1)),
        ),
        "deviation_cosine": Exploration(
            measured=_mean(path.deviation_cosines),
            independent=-1 / (n - 1),
            random_walk=walk,
            straight=line,
        ),
        "step_cosine": Exploration(
            measured=_mean(path.step_cosines), independent=-0.5, random_walk=0.0, straight=1.0
        ),
    }


def is_exploring(path: Trajectory) -> bool:
    """Tell whether captures explore around a centre rather than move on.

    They explore if the squared distance between neighbours is nearer to that of independent samples
    than to that of a random walk; see `explore`.
    """
    distance = explore(path)["neighbour_distance"]
    return distance.measured >= (distance.independent + distance.random_walk) / 2


def _walk_deviation_cosine(n: int) -> float:
    """Return the mean cosine of neighbours' deviations for independent steps of one length."""
    position = np.minimum.outer(np.arange(n), np.arange(n)).astype(np.float64)
    return _mean_cosine(position)


def _line_deviation_cosine(n: int) -> float:
    position = np.outer(np.arange(n), np.arange(n)).astype(np.float64)
    return _mean_cosine(position)


def _mean_cosine(gram: Array) -> float:
    """Return the mean over neighbours; points at the centre have no cosine and do not count."""
    centering = np.eye(len(gram)) - 1 / len(gram)
    return _mean(_neighbour_cosines(centering @ gram @ centering))


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(np.mean(known)) if known.size else math.nan


def trajectory_arrays(path: Trajectory) -> dict[str, np.ndarray]:
    """Return every array of the trajectory by name, as `write_numbers` takes them."""
    return {
        "norms": path.norms,
        "squared_distances": path.squared_distances,
        "steps": path.steps,
        "to_mean": path.to_mean,
        "to_start": path.to_start,
        "step_cosines": path.step_cosines,
        "deviation_cosines": path.deviation_cosines,
        "lag_profile": lag_profile(path),
    }


def describe_trajectory(path: Trajectory) -> dict[str, Any]:
    """Return everything but the arrays, as JSON values; None for what is not a number.

    `squared_to_mean` and `squared_step` come with what independent samples with this trΣ give:
    (1 − 1/n)·trΣ, which holds for any points, and 2·trΣ.
    """
    n, trace = len(path.names), trace_of(path)
    return {
        "checkpoints": [{"name": name} for name in path.names],
        "n_parameters": path.n_parameters,
        "mean_norm": path.mean_norm,
        "start": path.start,
        "start_norm": path.start_norm,
        "start_to_mean": path.start_to_mean,
        "trace": trace,
        "squared_to_mean": {
            "measured": float(np.mean(path.to_mean**2)),
            "independent": (1 - 1 / n) * trace,
        },
        "squared_step": {"measured": float(np.mean(path.steps**2)), "independent": 2 * trace},
        "exploration": {
            name: {
                key: value if math.isfinite(value) else None
                for key, value in dataclasses.asdict(one).items()
            }
            for name, one in explore(path).items()
        },
    }
