"""The plane through three checkpoints (Figures 1 and 3)."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swa_tools.averaging import open_all
from swa_tools.checkpoints import Checkpoint
from swa_tools.errors import SwaToolsError
from swa_tools.landscape.geometry import Array, Plane, Projection, own_tensors
from swa_tools.landscape.measurement_files import describe_checkpoints
from swa_tools.landscape.options import PlaneOptions
from swa_tools.landscape.survey import Point, Survey, arrays_of

CORNERS = 3


def measure_plane(
    corners: Sequence[Path],
    survey: Survey,
    *,
    projected: Sequence[Path] = (),
    options: PlaneOptions | None = None,
) -> None:
    """Score a grid on the plane through three checkpoints and write the numbers.

    The three are also scored from their own tensors; other checkpoints are projected.

    Args:
        corners: A, B and C; A is the origin, u points from A to B.
        survey: What to measure on, how, and where to write.
        projected: Checkpoints to project onto the plane.
        options: Which points to measure.

    Raises:
        SwaToolsError: The checkpoints do not belong together or lie on a line, a file or image
            cannot be read, or an output cannot be written.
    """
    options = options or PlaneOptions()
    _check(corners, options)
    survey.check_output()
    with open_all([*corners, *projected], entry=survey.options.entry) as checkpoints:
        own, others = checkpoints[:CORNERS], checkpoints[CORNERS:]
        plane = Plane(*own)
        projections = [plane.project(one) for one in others]
        x, y = _grid(plane, projections, options)
        described = {
            "checkpoints": describe_checkpoints(own),
            "projected": describe_checkpoints(others),
        }
        surface = survey.open_surface(corners[0])
        scores = survey.score(
            "plane",
            _points(plane, own, x, y),
            surface=surface,
            decayed=survey.decayed(own[0], plane.names),
            # Not the coordinates: their last bits depend on the number of threads.
            task={"plane": described, **dataclasses.asdict(options)},
        )
    own_scores = arrays_of(scores[:CORNERS], (CORNERS,))
    arrays = {
        "x": x,
        "y": y,
        **arrays_of(scores[CORNERS:], (len(y), len(x))),
        **{f"checkpoint_{name}": array for name, array in own_scores.items()},
        "checkpoint_xy": np.array(plane.corners),
        "projected_xyd": _coordinates(projections),
    }
    survey.write("plane", arrays, description=described, surface=surface)


def _check(corners: Sequence[Path], options: PlaneOptions) -> None:
    if len(corners) != CORNERS:
        raise SwaToolsError(f"a plane needs {CORNERS} checkpoints, found {len(corners)}")
    if options.n_points < 2 or not options.margin >= 0:
        raise SwaToolsError(
            f"a grid needs at least 2 points along each side and a margin of 0 or more, found"
            f" {options.n_points} and {options.margin:g}"
        )


def _coordinates(projections: Sequence[Projection]) -> Array:
    """Return each checkpoint's x, y and distance from the plane, (P, 3)."""
    found = np.array([(one.x, one.y, one.distance) for one in projections])
    return found.reshape(-1, 3)


def _grid(
    plane: Plane, projections: Sequence[Projection], options: PlaneOptions
) -> tuple[Array, Array]:
    """Return the coordinates of the columns and of the rows."""
    found = np.array([*plane.corners, *((one.x, one.y) for one in projections)])
    low, high = found.min(axis=0), found.max(axis=0)
    room = options.margin * float(np.max(high - low))
    x, y = (
        np.linspace(first - room, last + room, options.n_points)
        for first, last in zip(low, high, strict=True)
    )
    return x, y


def _points(
    plane: Plane,
    corners: Sequence[Checkpoint],
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
) -> list[Point]:
    """Return the checkpoints, then the grid row by row."""
    points = [
        Point(name=f"checkpoint-{number}", tensors=partial(own_tensors, one), is_checkpoint=True)
        for number, one in enumerate(corners)
    ]
    points += [
        Point(
            name=f"row-{row}-column-{column}",
            tensors=partial(plane.tensors, float(x[column]), float(y[row])),
        )
        for row in range(len(y))
        for column in range(len(x))
    ]
    return points
