"""`swa-tools segment`."""

from typing import Any

import click

from swa_tools.cli.declared import taken
from swa_tools.cli.parameter_types import COUNT
from swa_tools.cli.pictures import DrawingOptions
from swa_tools.cli.surfaces import measure_and_draw, surface_options
from swa_tools.data.options import ImageSource
from swa_tools.landscape.options import SurfaceOptions


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools segment swa.safetensors sgd.safetensors --data imagenet -o segment.npz\n"
    "  swa-tools segment --from segment.npz --plot segment.pdf"
)
@click.argument("swa", required=False, type=click.Path(readable=False))
@click.argument("sgd", required=False, type=click.Path(readable=False))
@click.option(
    "--points",
    "n_points",
    type=COUNT,
    default=10,
    show_default=True,
    help="Steps from one checkpoint to the other.",
)
@click.option(
    "--beyond",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="How far to continue beyond each checkpoint, as a multiple of the distance between them.",
)
@surface_options
def command(
    *, swa: str | None, sgd: str | None, n_points: int, beyond: float, **given: Any
) -> None:
    """Draw test error and train loss on the line through two checkpoints: an average, SWA, and SGD.

    Figure 5 of the paper: w(t) = t·w_SGD + (1 − t)·w_SWA over its signed distance, 0 at SWA and
    positive toward SGD; BatchNorm is recomputed at each point. If the command is killed, giving it
    again resumes it.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.errors import SwaToolsError
    from swa_tools.report import segment_picture

    drawing, source = taken(DrawingOptions, given), taken(ImageSource, given)
    options = taken(SurfaceOptions, given)
    paths = find_checkpoints([one for one in (swa, sgd) if one is not None])

    def measure(survey: Any) -> None:
        from swa_tools.landscape.segment import SegmentOptions, measure_segment

        if len(paths) != 2:
            raise SwaToolsError(f"a segment needs exactly two checkpoints, found {len(paths)}")
        shape = SegmentOptions(n_points=n_points, beyond=beyond)
        measure_segment(*paths, survey=survey, options=shape)

    measure_and_draw(
        drawing, source, options, kind="segment", paths=paths, measure=measure, draw=segment_picture
    )
