"""What `plane`, `ray` and `segment` share: options, the survey, and drawing from a file."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.computing import computing
from swa_tools.cli.declared import Decorator, options_of, taken
from swa_tools.cli.output import command_line, listening, notice, print_json, print_table
from swa_tools.cli.pictures import DrawingOptions, save_picture
from swa_tools.cli.shared_options import old_view_flags
from swa_tools.data.options import ImageSource
from swa_tools.errors import SwaToolsError
from swa_tools.landscape.options import DEFAULT_WEIGHT_DECAY, SurfaceOptions

if TYPE_CHECKING:
    from swa_tools.landscape.survey import Survey
    from swa_tools.measurements import Numbers
    from swa_tools.report import Picture


def surface_options(points: type) -> Decorator:
    """Return what adds the options of a command that measures a surface and draws it.

    Args:
        points: The dataclass that declares which points.
    """
    options = options_of(points, ImageSource, SurfaceOptions, DrawingOptions)
    return lambda function: options(old_view_flags(function))


def measure_and_draw(
    given: Mapping[str, Any],
    *,
    kind: str,
    paths: Sequence[Path],
    measure: "Callable[[Survey], None]",
    draw: "Callable[[Numbers], Picture]",
) -> None:
    """Measure unless `--from` names numbers to draw; draw the pictures and show the numbers.

    Args:
        given: All parameters of the command.
        kind: Of the numbers.
        paths: The checkpoints; the first one's run tells the weight decay.
        measure: Writes the survey's output.
        draw: Makes the picture.
    """
    drawing, source = taken(DrawingOptions, given), taken(ImageSource, given)
    if (drawing.source is None) == (drawing.output is None):
        raise click.UsageError(
            "Give either -o FILE.npz to measure or --from FILE.npz to draw what was measured."
        )
    if drawing.source is not None and paths:
        raise click.UsageError("--from draws what was measured: leave out the checkpoints.")
    check_plots(drawing)
    if drawing.output is not None:
        options = _with_decay(taken(SurfaceOptions, given), paths)
        if not _measure(source, options, drawing, measure=measure):
            return
    present(read_kind(drawing.numbers, kind), drawing, draw=draw)


def read_kind(path: Path, kind: str) -> "Numbers":
    """Read numbers of one kind; no torch."""
    from swa_tools.measurements import read_numbers

    numbers = read_numbers(path)
    if numbers.kind != kind:
        raise SwaToolsError(
            f"{path}: expected numbers of kind {kind}, found {numbers.kind}; use the command that"
            " wrote them"
        )
    return numbers


def present(
    numbers: "Numbers", drawing: DrawingOptions, *, draw: "Callable[[Numbers], Picture]"
) -> None:
    """Draw the pictures and show the numbers."""
    for plot in drawing.files:
        picture = draw(numbers)
        save_picture(picture, plot, options=drawing, force=drawing.force)
        notice(f"picture: {plot}")
    if drawing.as_json:
        print_json(numbers.description)
        return
    from swa_tools.report import tables_of

    for table in tables_of(numbers):
        print_table(
            table.columns, table.rows, caption=table.caption, text_columns=table.text_columns
        )


def check_plots(drawing: DrawingOptions) -> None:
    """Check early that the pictures can be written."""
    from swa_tools.checkpoints import check_output
    from swa_tools.report import picture_format

    for plot in drawing.files:
        picture_format(plot)
        check_output(plot, force=drawing.force)


def _measure(
    source: ImageSource,
    options: SurfaceOptions,
    drawing: DrawingOptions,
    *,
    measure: "Callable[[Survey], None]",
) -> bool:
    """Write the numbers; return whether this process draws them."""
    from swa_tools.data import open_split
    from swa_tools.landscape.survey import Survey

    with computing(options.device) as context:
        measure(
            Survey(
                output=drawing.numbers,
                train=open_split("train", source),
                val=open_split("val", source),
                options=options,
                context=context,
                listener=listening(context),
                command=command_line(),
                force=drawing.force,
            )
        )
        return context.is_main


def _with_decay(options: SurfaceOptions, paths: Sequence[Path]) -> SurfaceOptions:
    """Fill in the weight decay of the run of the first capture, unless the options give it."""
    from swa_tools.run_directory import options_in, run_of_capture

    runs = [run for path in paths if (run := run_of_capture(path)) is not None]
    trained = options_in(runs[0].readable_description()) if runs else {}
    weight_decay = options.weight_decay
    if weight_decay is None and trained.get("optimizer") == "adamw":
        weight_decay = 0.0  # AdamW's decay is not part of the loss.
    if weight_decay is None:
        weight_decay = float(trained.get("weight_decay", DEFAULT_WEIGHT_DECAY))
    vectors = options.no_decay_norm_bias or bool(trained.get("no_decay_norm_bias"))
    return dataclasses.replace(options, weight_decay=weight_decay, no_decay_norm_bias=vectors)
