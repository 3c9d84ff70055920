"""`swa-tools ray`."""

from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.output import print_table
from swa_tools.cli.surfaces import COUNT, measure_and_draw, surface_options

if TYPE_CHECKING:
    from swa_tools.report import Numbers


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools ray swa.safetensors sgd.safetensors --data imagenet -o rays.npz\n"
    "  swa-tools ray --from rays.npz --plot rays.pdf"
)
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...", type=click.Path())
@click.option("--rays", "n_rays", type=COUNT, default=10, show_default=True, help="Directions.")
@click.option(
    "--points",
    "n_points",
    type=COUNT,
    default=12,
    show_default=True,
    help="Points on each ray besides the checkpoint.",
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
    rays. A killed command goes on where it was when it is given again.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.report import ray_picture

    paths = find_checkpoints(checkpoints)

    def measure(survey: Any) -> None:
        from swa_tools.landscape.ray import RayOptions, measure_rays

        options = RayOptions(
            n_rays=n_rays, n_points=n_points, distance=distance, seed=given["seed"]
        )
        measure_rays(paths, survey, options=options)

    measure_and_draw(given, kind="rays", paths=paths, measure=measure, draw=ray_picture, show=_show)


def _show(numbers: "Numbers") -> None:
    description, rows = numbers.description, []
    for number, one in enumerate(description["checkpoints"]):
        row = [one["name"], f"{numbers.arrays['test_error'][number, 0, 0]:.2f}"]
        for width in one["width"].values():
            row += [_number(width["mean"]), _interval(width, n_rays=description["n_rays"])]
        rows.append(row)
    growths = [f"+{growth} points" for growth in description["checkpoints"][0]["width"]]
    columns = ["checkpoint", "test error %", *(c for g in growths for c in (g, "95 %"))]
    n_rays = description["n_rays"]
    print_table(columns, rows, caption=f"Distance at which the error has grown, {n_rays} rays")
    names = [one["name"] for one in description["checkpoints"]]
    for first, second, wider in zip(names, names[1:], description["wider_than_next"], strict=False):
        for growth, one in wider.items():
            if one is not None:
                low, high = one["interval"]
                click.echo(
                    f"+{growth} points: {first} is wider than {second} by {one['mean']:.3g}"
                    f" ({low:.3g} to {high:.3g}), ray by ray"
                )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(width: dict[str, Any], *, n_rays: int) -> str:
    if width["interval"] is not None:
        low, high = width["interval"]
        return f"{low:.4g} to {high:.4g}"
    return f"reached on {width['n_reached']} of {n_rays}"
