"""What `plane`, `ray` and `segment` share: options, the survey, and drawing again."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.computing import computing
from swa_tools.cli.declared import Decorator
from swa_tools.cli.options import data_options, force_option, json_option, model_options
from swa_tools.cli.output import command_line, notice, print_json, print_table, progress
from swa_tools.cli.parameter_types import COUNT, PATH
from swa_tools.cli.passes import (
    model_choice,
    open_split,
    pass_options,
    run_seed_option,
    view_options,
)
from swa_tools.cli.pictures import picture_options, save_picture
from swa_tools.errors import SwaToolsError

if TYPE_CHECKING:
    from swa_tools.landscape.survey import Survey
    from swa_tools.measurements import Numbers
    from swa_tools.report import Picture

DEFAULT_WEIGHT_DECAY = 1e-4

drawing_options: tuple[Decorator, ...] = (
    click.option(
        "-o", "--output", type=PATH, metavar="FILE.npz", help="The numbers; drawn beside it."
    ),
    click.option(
        "--plot",
        "plots",
        type=PATH,
        multiple=True,
        metavar="FILE",
        help="Picture to draw (.png, .svg, .pdf); may be repeated.  [default: FILE.png]",
    ),
    click.option(
        "--from",
        "source",
        type=PATH,
        metavar="FILE.npz",
        help="Draw these numbers again instead of measuring.",
    ),
    picture_options,
)

_SURFACE_OPTIONS: tuple[Decorator, ...] = (
    data_options,
    click.option(
        "--train-samples",
        type=COUNT,
        default=5000,
        show_default=True,
        help="Training images for the loss: random, class-balanced.",
    ),
    click.option(
        "--val-samples",
        type=COUNT,
        default=5000,
        show_default=True,
        help="Validation images for the error: random, class-balanced.",
    ),
    click.option(
        "--bn-samples",
        type=click.IntRange(min=0),
        default=2048,
        show_default=True,
        help="Training images to recompute BatchNorm on at every point; 0 leaves it as it is, and"
        " the picture of a network with BatchNorm is wrong.",
    ),
    *view_options,
    click.option(
        "--weight-decay",
        type=click.FloatRange(min=0),
        help=f"Of the loss's L2 term.  [default: the run's own, else {DEFAULT_WEIGHT_DECAY:g}]",
    ),
    click.option(
        "--no-decay-norm-bias",
        is_flag=True,
        help="Biases and norm layers were not decayed, and do not count for the L2 term."
        "  [default: as the run]",
    ),
    click.option(
        "--cache-images/--no-cache-images",
        default=None,
        help="Hold the decoded images in memory.  [default: if half of what is free is enough]",
    ),
    pass_options,
    model_options,
    run_seed_option,
    *drawing_options,
    force_option,
    json_option,
)


def add_options(options: Sequence[Decorator]) -> Decorator:
    """Return the decorator that adds options in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


surface_options = add_options(_SURFACE_OPTIONS)


def measure_and_draw(
    given: dict[str, Any],
    *,
    kind: str,
    paths: Sequence[Path],
    measure: "Callable[[Survey], None]",
    draw: "Callable[[Numbers], Picture]",
) -> None:
    """Measure unless `--from` says what to draw; draw the pictures and show the numbers.

    Args:
        given: The parameters of `surface_options`.
        kind: Of the numbers.
        paths: The checkpoints; the first one's run tells the weight decay.
        measure: Writes the survey's output.
        draw: Makes the picture.
    """
    source, output = given["source"], given["output"]
    if (source is None) == (output is None):
        raise click.UsageError("Give -o FILE.npz to measure, or --from FILE.npz to draw again.")
    if source is not None and paths:
        raise click.UsageError("--from draws again: leave out checkpoints.")
    check_plots(given)
    if source is None and not _measure(given, kind=kind, paths=paths, measure=measure):
        return
    present(read_kind(source or output, kind), given, draw=draw)


def read_kind(path: Path, kind: str) -> "Numbers":
    """Read numbers of one kind; no torch."""
    from swa_tools.measurements import read_numbers

    numbers = read_numbers(path)
    if numbers.kind != kind:
        raise SwaToolsError(
            f"{path}: expected the numbers of {kind}, found those of {numbers.kind}"
        )
    return numbers


def present(
    numbers: "Numbers",
    given: dict[str, Any],
    *,
    draw: "Callable[[Numbers], Picture]",
) -> None:
    """Draw the pictures and show the numbers."""
    for plot in _plots(given):
        picture = draw(numbers)
        save_picture(picture, plot, size=given["size"], dpi=given["dpi"], force=given["force"])
        notice(f"picture: {plot}")
    if given["as_json"]:
        print_json(numbers.description)
        return
    from swa_tools.report import tables_of

    for table in tables_of(numbers):
        print_table(
            table.columns, table.rows, caption=table.caption, text_columns=table.text_columns
        )


def check_plots(given: dict[str, Any]) -> None:
    """Tell early whether the pictures could be written."""
    from swa_tools.checkpoints import check_output
    from swa_tools.report import picture_format

    for plot in _plots(given):
        picture_format(plot)
        check_output(plot, force=given["force"])


def _plots(given: dict[str, Any]) -> tuple[Path, ...]:
    source: Path | None = given["source"] or given["output"]
    plots: tuple[Path, ...] = given["plots"]
    return plots or (() if source is None else (source.with_suffix(".png"),))


def _measure(
    given: dict[str, Any],
    *,
    kind: str,
    paths: Sequence[Path],
    measure: "Callable[[Survey], None]",
) -> bool:
    """Write the numbers; return whether this is the process that draws them."""
    from swa_tools.distributed import amp_dtype
    from swa_tools.landscape.surface import SurfaceOptions
    from swa_tools.landscape.survey import Survey, SurveyListener

    names = (
        *("train_samples", "val_samples", "bn_samples", "view", "seed", "batch_size"),
        *("workers", "skip_bad_images", "channels_last", "cache_images"),
    )
    with computing(given["device"]) as context, contextlib.ExitStack() as stack:
        options = SurfaceOptions(
            **{name: given[name] for name in names},
            **model_choice(given),
            **_decay(given, paths),
            amp=amp_dtype(given["amp"], context.device),
        )

        def start(n_images: int) -> Callable[[int], None]:
            return stack.enter_context(progress(kind, n_images, unit="images"))

        measure(
            Survey(
                output=given["output"],
                train=open_split("train", given),
                val=open_split("val", given),
                options=options,
                context=context,
                listener=SurveyListener(on_start=start, on_notice=notice),
                command=command_line(),
                force=given["force"],
            )
        )
        return context.is_main


def _decay(given: dict[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """Return what was decayed, by the options given, else by the run of one of the checkpoints."""
    from swa_tools.checkpoints import run_directory_of

    runs = [run for path in paths if (run := run_directory_of(path)) is not None]
    options = _options_of(runs[0]) if runs else {}
    weight_decay = given["weight_decay"]
    if weight_decay is None and options.get("optimizer") == "adamw":
        weight_decay = 0.0  # AdamW's decay is none of the loss's.
    if weight_decay is None:
        weight_decay = float(options.get("weight_decay", DEFAULT_WEIGHT_DECAY))
    vectors = given["no_decay_norm_bias"] or bool(options.get("no_decay_norm_bias"))
    return {"weight_decay": weight_decay, "no_decay_norm_bias": vectors}


def _options_of(run: Path) -> dict[str, Any]:
    """Return the options of a run's training; none where its description does not tell."""
    try:
        options = json.loads((run / "run.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return options if isinstance(options, dict) else {}
