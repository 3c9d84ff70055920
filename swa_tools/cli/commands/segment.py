"""`swa-tools segment`."""

from typing import Any

import click

from swa_tools.cli.declared import taken
from swa_tools.cli.surfaces import measure_and_draw, surface_options
from swa_tools.landscape.options import SegmentOptions


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools segment swa.safetensors sgd.safetensors --data imagenet -o segment.npz\n"
    "  swa-tools segment --from segment.npz --plot segment.pdf"
)
@click.argument("swa", required=False, type=click.Path(readable=False))
@click.argument("sgd", required=False, type=click.Path(readable=False))
@surface_options(SegmentOptions)
def command(*, swa: str | None, sgd: str | None, **given: Any) -> None:
    """Draw test error and train loss on the line through two checkpoints: an average, SWA, and SGD.

    Figure 5 of the paper: w(t) = t·w_SGD + (1 − t)·w_SWA over its signed distance, 0 at SWA and
    positive toward SGD; BatchNorm is recomputed at each point. If the command is killed, giving it
    again resumes it.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.errors import SwaToolsError
    from swa_tools.report import segment_picture

    paths = find_checkpoints([one for one in (swa, sgd) if one is not None])

    def measure(survey: Any) -> None:
        from swa_tools.landscape.segment import measure_segment

        if len(paths) != 2:
            raise SwaToolsError(f"a segment needs exactly two checkpoints, found {len(paths)}")
        measure_segment(*paths, survey=survey, options=taken(SegmentOptions, given))

    measure_and_draw(given, kind="segment", paths=paths, measure=measure, draw=segment_picture)
