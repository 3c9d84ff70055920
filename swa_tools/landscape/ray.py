"""Random rays from checkpoints (Figure 4)."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.averaging import open_all
from swa_tools.checkpoints import Checkpoint
from swa_tools.errors import SwaToolsError
from swa_tools.landscape.geometry import (
    Array,
    norm,
    own_tensors,
    parameter_names,
    random_direction,
    ray_tensors,
)
from swa_tools.landscape.measurement_files import describe_checkpoints
from swa_tools.landscape.options import RayOptions
from swa_tools.landscape.survey import Point, Survey, arrays_of
from swa_tools.landscape.width import ray_widths, width_differences

RELATIVE_DISTANCE = 0.5
"""Length of a ray in norms of the first checkpoint: enough for the error to grow in spite of
BatchNorm."""


def measure_rays(
    paths: Sequence[Path], survey: Survey, *, options: RayOptions | None = None
) -> None:
    """Score points w + t·d along random directions d from checkpoints w, and write the numbers.

    Directions are uniform on the unit sphere of all parameters jointly.

    Args:
        paths: The checkpoints w.
        survey: What to measure on, how, and where to write.
        options: Which points to measure.

    Raises:
        SwaToolsError: The checkpoints do not belong together, a file or image cannot be read, or an
            output cannot be written.
    """
    options = options or RayOptions()
    _check(paths, options)
    survey.check_output()
    with open_all(paths, entry=survey.options.entry) as checkpoints:
        names = parameter_names(checkpoints)
        norms = [norm(one, names) for one in checkpoints]
        length = options.distance or RELATIVE_DISTANCE * norms[0]
        t = np.linspace(0, length, options.n_points + 1)
        directions = _Directions(checkpoints[0], names, seed=options.seed)
        named = describe_checkpoints(checkpoints)
        surface = survey.open_surface(paths[0])
        scores = survey.score(
            "rays",
            list(_points(checkpoints, directions, t, n_rays=options.n_rays)),
            surface=surface,
            decayed=survey.decayed(checkpoints[0], names),
            # Not the number of rays: the next try may ask for more. And not the positions: their
            # last bits depend on the number of threads.
            task={
                "rays": named,
                "n_points": options.n_points,
                "distance": options.distance,
                "direction_seed": options.seed,
            },
        )
    n = len(paths)
    own = arrays_of(scores[:n], (n, 1, 1))
    arrays = arrays_of(scores[n:], (options.n_rays, n, options.n_points))
    joined = {name: _with_own(own[name], array) for name, array in arrays.items()}
    description = {
        **_widths(named, t, joined["test_error"]),
        "n_rays": options.n_rays,
        "direction_seed": options.seed,
    }
    survey.write("rays", {"t": t, **joined}, description=description, surface=surface)


def _check(paths: Sequence[Path], options: RayOptions) -> None:
    if options.n_rays < 1 or options.n_points < 1:
        raise SwaToolsError(
            f"expected at least 1 ray and 1 point on each, found {options.n_rays} rays and"
            f" {options.n_points} points"
        )
    if not paths:
        raise SwaToolsError("rays begin at checkpoints; name at least one")


def _widths(named: Sequence[dict[str, Any]], t: Array, errors: np.ndarray) -> dict[str, Any]:
    """Return the checkpoints with their widths, and how much wider each is than the next."""
    widths = [ray_widths(t, one) for one in errors]
    return {
        "checkpoints": [{**one, "width": width} for one, width in zip(named, widths, strict=True)],
        "wider_than_next": [
            width_differences(one, other) for one, other in itertools.pairwise(widths)
        ],
    }


class _Directions:
    """The directions; one is in memory at a time."""

    def __init__(self, checkpoint: Checkpoint, names: Sequence[str], *, seed: int) -> None:
        self._draw = partial(random_direction, checkpoint, names, seed=seed)
        self._number: int | None = None
        self._direction: dict[str, Array] = {}

    def __getitem__(self, number: int) -> dict[str, Array]:
        if number != self._number:
            self._direction = {}  # before the next one is drawn
            self._direction = self._draw(number=number)
            self._number = number
        return self._direction


def _points(
    checkpoints: Sequence[Checkpoint], directions: _Directions, t: Array, *, n_rays: int
) -> Iterator[Point]:
    """Yield the checkpoints, then ray after ray, so that each direction is drawn only once."""
    for number, one in enumerate(checkpoints):
        yield Point(
            name=f"checkpoint-{number}", tensors=partial(own_tensors, one), is_checkpoint=True
        )
    for ray in range(n_rays):
        for number, one in enumerate(checkpoints):
            for step in range(1, len(t)):
                yield Point(
                    name=f"ray-{ray}-checkpoint-{number}-step-{step}",
                    tensors=partial(_tensors, one, directions, ray, float(t[step])),
                )


def _tensors(
    base: Checkpoint, directions: _Directions, ray: int, t: float
) -> Iterator[tuple[str, np.ndarray]]:
    return ray_tensors(base, directions[ray], t)


def _with_own(own: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Put the checkpoint's own value at t = 0 of each ray: (checkpoints, rays, points + 1)."""
    array = array.swapaxes(0, 1)
    start = np.broadcast_to(own, (*array.shape[:2], 1, *array.shape[3:]))
    return np.concatenate([start, array], axis=2)
