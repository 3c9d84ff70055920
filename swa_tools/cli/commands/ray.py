"""`swa-tools ray`."""

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
    "  swa-tools ray swa.safetensors sgd.safetensors --data imagenet -o rays.npz\n"
    "  swa-tools ray --from rays.npz --plot rays.pdf"
)
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...", type=click.Path(readable=False))
@click.option(
    "--rays", "n_rays", type=COUNT, default=10, show_default=True, help="Number of directions."
)
@click.option(
    "--points",
    "n_points",
    type=COUNT,
    default=12,
    show_default=True,
    help="Points on each ray, not counting the checkpoint.",
)
@click.option(
    "--distance",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the rays.  [default: half the norm of the first checkpoint]",
)
@surface_options
def command(
    *,
    checkpoints: tuple[str, ...],
    n_rays: int,
    n_points: int,
    distance: float | None,
    **given: Any,
) -> None:
    """Draw test error and train loss along random rays from checkpoints.

    Figure 4 of the paper. Directions are uniform on the unit sphere of all parameters, and the same
    for every checkpoint; BatchNorm is recomputed at each point. The width of a minimum is the
    distance at which the error has grown by 1 and by 5 points, with its 95 % interval over the
    rays. If the command is killed, giving it again resumes it.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.report import ray_picture

    drawing, source = taken(DrawingOptions, given), taken(ImageSource, given)
    options = taken(SurfaceOptions, given)
    paths = find_checkpoints(checkpoints)

    def measure(survey: Any) -> None:
        from swa_tools.landscape.ray import RayOptions, measure_rays

        shape = RayOptions(
            n_rays=n_rays, n_points=n_points, distance=distance, seed=options.seed or 0
        )
        measure_rays(paths, survey, options=shape)

    measure_and_draw(
        drawing, source, options, kind="rays", paths=paths, measure=measure, draw=ray_picture
    )
