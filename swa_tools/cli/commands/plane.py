"""`swa-tools plane`."""

from typing import Any

import click

from swa_tools.cli.declared import taken
from swa_tools.cli.pictures import DrawingOptions
from swa_tools.cli.surfaces import measure_and_draw, surface_options
from swa_tools.data.options import ImageSource
from swa_tools.landscape.options import SurfaceOptions


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools plane run/checkpoints/cycle-001.safetensors \\\n"
    "    run/checkpoints/cycle-005.safetensors run/checkpoints/cycle-010.safetensors \\\n"
    "    --project swa.safetensors --data imagenet -o plane.npz\n"
    "  swa-tools plane --from plane.npz --plot plane.svg"
)
@click.argument("checkpoints", nargs=-1, metavar="A B C", type=click.Path(readable=False))
@click.option(
    "--project",
    multiple=True,
    metavar="CHECKPOINT",
    help="Also mark this checkpoint at the nearest point of the plane; may be repeated.",
)
@click.option(
    "--points",
    "n_points",
    type=click.IntRange(min=2),
    default=15,
    show_default=True,
    help="Points along each side of the grid.",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0),
    default=0.25,
    show_default=True,
    help="Room around the checkpoints, as a share of their extent.",
)
@surface_options
def command(
    *,
    checkpoints: tuple[str, ...],
    project: tuple[str, ...],
    n_points: int,
    margin: float,
    **given: Any,
) -> None:
    """Draw train loss and test error on the plane through three checkpoints.

    Figures 1 and 3 of the paper. At each point of a grid, BatchNorm is recomputed, then train loss
    (with its L2 term) and test error are measured. If the command is killed, giving it again
    resumes it; torchrun spreads the points over GPUs.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.report import plane_picture

    drawing, source = taken(DrawingOptions, given), taken(ImageSource, given)
    options = taken(SurfaceOptions, given)
    corners = find_checkpoints(checkpoints)
    known = {path.resolve() for path in corners}
    projected = [path for path in find_checkpoints(project) if path.resolve() not in known]

    def measure(survey: Any) -> None:
        from swa_tools.landscape.plane import PlaneOptions, measure_plane

        shape = PlaneOptions(n_points=n_points, margin=margin)
        measure_plane(corners, survey, projected=projected, options=shape)

    measure_and_draw(
        drawing,
        source,
        options,
        kind="plane",
        paths=[*corners, *projected],
        measure=measure,
        draw=plane_picture,
    )
