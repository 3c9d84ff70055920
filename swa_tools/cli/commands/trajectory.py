"""`swa-tools trajectory`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swa_tools.checkpoints.remote import as_path
from swa_tools.cli.declared import options_of, taken
from swa_tools.cli.output import command_line
from swa_tools.cli.pictures import DrawingOptions
from swa_tools.cli.surfaces import check_plots, present, read_kind

if TYPE_CHECKING:
    from swa_tools.measurements import Numbers


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools trajectory run\n"
    "  swa-tools trajectory run -o trajectory.npz --plot trajectory.svg"
)
@click.argument(
    "checkpoints", nargs=-1, metavar="RUN|CHECKPOINT...", type=click.Path(readable=False)
)
@click.option(
    "--start", metavar="CHECKPOINT", help="Weights that the run began with.  [default: the run's]"
)
@click.option("--entry", metavar="KEY", help="Which weights to take from a pickled file.")
@options_of(DrawingOptions)
def command(
    *, checkpoints: tuple[str, ...], start: str | None, entry: str | None, **given: Any
) -> None:
    """Measure a run's path through weight space: is it exploring, or still descending?

    Section 3.6 of the paper. Prints distances between captures, to their mean and to the start, and
    three numbers that tell independent samples from a random walk and from straight motion. Needs
    only the files; streams them, without torch.
    """
    from swa_tools.report import trajectory_picture

    drawing = taken(DrawingOptions, given)
    if drawing.source is not None and (checkpoints or drawing.output is not None):
        raise click.UsageError("--from draws what was measured: leave out checkpoints and -o.")
    check_plots(drawing)
    if drawing.source is not None:
        numbers = read_kind(drawing.source, "trajectory")
    else:
        numbers = _measure(checkpoints, start, entry, output=drawing.output, force=drawing.force)
    present(numbers, drawing, draw=trajectory_picture)


def _measure(
    checkpoints: tuple[str, ...],
    start: str | None,
    entry: str | None,
    *,
    output: Path | None,
    force: bool,
) -> "Numbers":
    """Return the numbers, and write them if there is an output."""
    from swa_tools.averaging import open_all
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.landscape.measurement_files import (
        check_numbers,
        describe_checkpoints,
        write_numbers,
    )
    from swa_tools.landscape.trajectory import describe_trajectory, trajectory, trajectory_arrays
    from swa_tools.measurements import Numbers, describe
    from swa_tools.run_directory import common_run_of_captures

    if output is not None:
        check_numbers(output, force=force)
    paths = find_checkpoints(checkpoints)
    beginning = as_path(start) if start is not None else None
    run = common_run_of_captures(paths)
    if beginning is None and run is not None and run.start.exists():
        beginning = run.start
    path = trajectory(paths, start=beginning, entry=entry)
    arrays = trajectory_arrays(path)
    description = describe("trajectory", command=command_line(), **describe_trajectory(path))
    if output is not None:
        with open_all([*paths, *([] if beginning is None else [beginning])], entry=entry) as opened:
            named = describe_checkpoints(opened)
        description |= {"checkpoints": named[: len(paths)], "start_checkpoint": named[len(paths) :]}
        write_numbers(output, arrays=arrays, description=description, force=force)
    return Numbers(path=output or Path(), kind="trajectory", arrays=arrays, description=description)
