"""`swa-tools plane`."""

from typing import Any

import click

from swa_tools.cli.declared import taken
from swa_tools.cli.surfaces import measure_and_draw, surface_options
from swa_tools.landscape.options import PlaneOptions


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
@surface_options(PlaneOptions)
def command(*, checkpoints: tuple[str, ...], project: tuple[str, ...], **given: Any) -> None:
    """Draw train loss and test error on the plane through three checkpoints.

    Figures 1 and 3 of the paper. At each point of a grid, BatchNorm is recomputed, then train loss
    (with its L2 term) and test error are measured. If the command is killed, giving it again
    resumes it; torchrun spreads the points over GPUs.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.report import plane_picture

    corners = find_checkpoints(checkpoints)
    known = {path.resolve() for path in corners}
    projected = [path for path in find_checkpoints(project) if path.resolve() not in known]

    def measure(survey: Any) -> None:
        from swa_tools.landscape.plane import measure_plane

        options = taken(PlaneOptions, given)
        measure_plane(corners, survey, projected=projected, options=options)

    measure_and_draw(
        given, kind="plane", paths=[*corners, *projected], measure=measure, draw=plane_picture
    )
