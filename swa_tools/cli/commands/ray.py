"""`swa-tools ray`."""

from typing import Any

import click

from swa_tools.cli.declared import taken
from swa_tools.cli.surfaces import measure_and_draw, surface_options
from swa_tools.landscape.options import RayOptions


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools ray swa.safetensors sgd.safetensors --data imagenet -o rays.npz\n"
    "  swa-tools ray --from rays.npz --plot rays.pdf"
)
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...", type=click.Path(readable=False))
@surface_options(RayOptions)
def command(*, checkpoints: tuple[str, ...], **given: Any) -> None:
    """Draw test error and train loss along random rays from checkpoints.

    Figure 4 of the paper. Directions are uniform on the unit sphere of all parameters, and the same
    for every checkpoint; BatchNorm is recomputed at each point. The width of a minimum is the
    distance at which the error has grown by 1 and by 5 points, with its 95 % interval over the
    rays. If the command is killed, giving it again resumes it.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.report import ray_picture

    paths = find_checkpoints(checkpoints)

    def measure(survey: Any) -> None:
        from swa_tools.landscape.ray import measure_rays

        measure_rays(paths, survey, options=taken(RayOptions, given, seed=given["seed"] or 0))

    measure_and_draw(given, kind="rays", paths=paths, measure=measure, draw=ray_picture)
