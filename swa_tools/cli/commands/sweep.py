"""`swa-tools sweep`."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from swa_tools.averaging import Selection
from swa_tools.batchnorm.options import BnOptions
from swa_tools.cli.choosing import chosen_checkpoints
from swa_tools.cli.computing import setting_of
from swa_tools.cli.declared import options_of, taken
from swa_tools.cli.output import command_line, number, print_json, print_table
from swa_tools.cli.parameter_types import PATH
from swa_tools.cli.pictures import PictureOptions, save_picture
from swa_tools.cli.recording import check_results, recording
from swa_tools.cli.shared_options import (
    OutcomeOptions,
    checkpoints_argument,
    old_view_flags,
    split_option,
)
from swa_tools.data.options import ImageSource
from swa_tools.models.choice import ModelChoice
from swa_tools.records import Record
from swa_tools.statistics import wilson_interval

if TYPE_CHECKING:
    from swa_tools.report import Picture
    from swa_tools.selection import SweepPoint


@click.command(
    epilog="\b\nExample:\n  swa-tools sweep run --data imagenet --samples 10000 --plot sweep.png"
)
@checkpoints_argument
@options_of(Selection, ImageSource)
@split_option
@click.option("--csv", "csv_file", type=PATH, metavar="FILE", help="Also write the table as CSV.")
@click.option("--plot", type=PATH, metavar="FILE", help="Draw the curve (PNG, SVG or PDF).")
@options_of(PictureOptions, BnOptions)
@old_view_flags
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Averages in memory at a time; they share a pass over the images.",
)
@options_of(ModelChoice, OutcomeOptions)
def command(
    *,
    checkpoints: tuple[str, ...],
    split: Literal["train", "val"],
    csv_file: Path | None,
    plot: Path | None,
    **given: Any,
) -> None:
    """Score the averages of the first and of the last n CHECKPOINTs, for every n.

    BatchNorm is recomputed for each; no average is written. The table shows what more cycles are
    worth (Table 2 and Figure 6 of the paper).
    """
    from swa_tools.checkpoints import check_output
    from swa_tools.data import open_split
    from swa_tools.report import picture_format
    from swa_tools.selection import sweep

    pictures, outcome = taken(PictureOptions, given), taken(OutcomeOptions, given)
    paths = chosen_checkpoints(checkpoints, taken(Selection, given), entry=given["entry"]).paths
    check_results(outcome.results)
    if plot is not None:
        picture_format(plot)
    for output in (csv_file, plot):
        if output is not None:
            check_output(output, force=outcome.force)
    with setting_of(given) as setting:
        points = sweep(paths, open_split(split, taken(ImageSource, given)), setting)
    if not setting.context.is_main:
        return
    with recording([_record(point, split) for point in points], outcome.results, paths=paths):
        if outcome.as_json:
            print_json({"split": split, "averages": [_document(point) for point in points]})
        else:
            _print(points, split)
        if csv_file is not None:
            _write_csv(points, csv_file, force=outcome.force)
        if plot is not None:
            save_picture(_picture(points), plot, options=pictures, force=outcome.force)


def _record(point: "SweepPoint", split: str) -> Record:
    about = Record(
        event="evaluation",
        checkpoint=point.name,
        kind="average",
        bn=point.bn,
        split=split,
        command=command_line(),
    )
    return point.score.record(about)


def _write_csv(points: "Sequence[SweepPoint]", path: Path, *, force: bool) -> None:
    from swa_tools.checkpoints import atomic_output

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["end", "n", "n_samples", "n_correct", "top1", "top5", "nll", "ece"])
    for point in points:
        score = point.score
        row = [score.n_samples, score.n_correct, score.top1, score.top5, score.nll, score.ece]
        writer.writerow([point.end, point.n, *row])
    with atomic_output(path, force=force) as file:
        file.write(text.getvalue().encode())


def _picture(points: "Sequence[SweepPoint]") -> "Picture":
    from swa_tools.report import sweep_picture

    return sweep_picture(
        {
            f"{end} n": [
                (point.n, point.score.top1, point.score.n_samples)
                for point in points
                if point.end == end
            ]
            for end in ("first", "last")
        }
    )


def _document(point: "SweepPoint") -> dict[str, Any]:
    return {
        "name": point.name,
        "end": point.end,
        "n": point.n,
        "sources": [str(path) for path in point.sources],
        "bn": point.bn,
        **dataclasses.asdict(point.score),
    }


def _print(points: "Sequence[SweepPoint]", split: str) -> None:
    rows = []
    for point in points:
        score = point.score
        low, high = wilson_interval(score.n_correct, score.n_samples)
        rows.append(
            [
                f"{point.end} {point.n}",
                f"{score.top1:.2f}",
                f"{low:.2f} – {high:.2f}",
                number(score.top5),
                f"{score.nll:.4f}",
            ]
        )
    columns = ["average of the", "top-1 %", "95 %", "top-5 %", "nll"]
    print_table(columns, rows, caption=f"{points[0].score.n_samples:,} images of {split}")
