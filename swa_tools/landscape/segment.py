"""The line between two checkpoints and beyond them (Figure 5)."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from swa_tools.averaging import open_all
from swa_tools.checkpoints import Checkpoint
from swa_tools.errors import CheckpointError, SwaToolsError
from swa_tools.landscape.geometry import (
    Array,
    distance,
    line_tensors,
    norm,
    own_tensors,
    parameter_names,
)
from swa_tools.landscape.measurement_files import describe_checkpoints
from swa_tools.landscape.options import SegmentOptions
from swa_tools.landscape.survey import Point, Survey, arrays_of
from swa_tools.landscape.width import segment_widths


def measure_segment(
    swa: Path, sgd: Path, *, survey: Survey, options: SegmentOptions | None = None
) -> None:
    """Score points w(t) = t·w_SGD + (1 − t)·w_SWA and write the numbers.

    Positions are signed distances t·‖w_SGD − w_SWA‖: 0 at the average, positive toward w_SGD.

    Args:
        swa: The average.
        sgd: The conventionally trained weights.
        survey: What to measure on, how, and where to write.
        options: Which points to measure.

    Raises:
        SwaToolsError: The two do not belong together or are the same, a file or image cannot be
            read, or an output cannot be written.
    """
    options = options or SegmentOptions()
    if options.n_points < 1 or not options.beyond >= 0:
        raise SwaToolsError(
            "expected at least 1 point on the segment and a length beyond it of 0 or more, found"
            f" {options.n_points} and {options.beyond:g}"
        )
    survey.check_output()
    with open_all([swa, sgd], entry=survey.options.entry) as checkpoints:
        names = parameter_names(checkpoints)
        for one in checkpoints:
            norm(one, names)  # refuses what is not finite
        length = distance(checkpoints[0], checkpoints[1], names)
        if length == 0:
            raise CheckpointError(
                f"{sgd}: has the same parameters as {swa}; a segment needs two different"
                " checkpoints"
            )
        t = _positions(options)
        named = describe_checkpoints(checkpoints)
        surface = survey.open_surface(swa)
        scores = survey.score(
            "segment",
            list(_points(checkpoints, names, t)),
            surface=surface,
            decayed=survey.decayed(checkpoints[0], names),
            task={"segment": named, "t": t.tolist()},
        )
    arrays = arrays_of(scores, t.shape)
    position = t * length
    width = segment_widths(
        position,
        objective=arrays["train_objective"],
        is_correct=np.stack([score.is_correct for score in scores]),
    )
    survey.write(
        "segment",
        {"t": t, "position": position, **arrays},
        description={"checkpoints": named, "distance": length, "width": width},
        surface=surface,
    )


def _positions(options: SegmentOptions) -> Array:
    """Return t, with 0 and 1 exact."""
    n_beyond = round(options.beyond * options.n_points)
    return np.arange(-n_beyond, options.n_points + n_beyond + 1) / options.n_points


def _points(checkpoints: Sequence[Checkpoint], names: Sequence[str], t: Array) -> Iterator[Point]:
    """Yield the points in their order; the two checkpoints from their own tensors."""
    swa, sgd = checkpoints
    own = {0.0: swa, 1.0: sgd}
    for number, position in enumerate(t.tolist()):
        checkpoint = own.get(position)
        yield Point(
            name=f"point-{number}",
            tensors=partial(own_tensors, checkpoint)
            if checkpoint is not None
            else partial(line_tensors, swa, sgd, names, position),
            is_checkpoint=checkpoint is not None,
        )
