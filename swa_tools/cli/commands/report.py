"""`swa-tools report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.declared import options_of, taken
from swa_tools.cli.output import notice, print_table
from swa_tools.cli.parameter_types import PATH
from swa_tools.cli.pictures import PictureOptions, save_picture
from swa_tools.cli.shared_options import OutputOptions
from swa_tools.errors import OutputError

if TYPE_CHECKING:
    from swa_tools.report.runs import RunData
    from swa_tools.report.tables import Table

PAGE = "index.html"
SUFFIXES = (".png", ".svg")


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools report run -o report\n"
    "  swa-tools report sgd swa-seed0 swa-seed1 swa-seed2 -o report\n"
    "  swa-tools report run --text"
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="DIR", help="Folder for the page and pictures.")
@click.option("--text", is_flag=True, help="Print the tables instead of writing a page.")
@options_of(PictureOptions)
@options_of(OutputOptions, only=("force",))
def command(
    *, runs: tuple[Path, ...], output: Path | None, text: bool, force: bool, **given: Any
) -> None:
    """Put everything about runs on one self-contained HTML page, with all pictures as files.

    The page shows what each run was, its scores with 95 % intervals, its pictures, and how to
    reproduce each number. Several runs are compared; those that differ only in the seed share a
    line. Numbers of plane, ray, segment, trajectory and evaluate --save-logits are shown if they
    are in the run's folder. Needs no torch.
    """
    from swa_tools.report.runs import load_runs

    options = taken(PictureOptions, given)
    if text == (output is not None):
        raise click.UsageError("Give either -o DIR for a page or --text for tables.")
    loaded = load_runs(runs)
    for line in (line for one in loaded for line in one.notices):
        notice(line)
    if output is None:
        _print(loaded)
        return
    _write(loaded, output, options=options, force=force)


def _print(runs: "list[RunData]") -> None:
    from swa_tools.report.tables import comparison_table, score_table, summary

    for run in runs:
        click.echo(f"{run.name}: {summary(run, runs)}")
        _print_table(score_table(run, runs))
    if len(runs) > 1:
        _print_table(comparison_table(runs))


def _print_table(table: "Table") -> None:
    if table.rows:
        print_table(
            table.columns, table.rows, caption=table.caption, text_columns=table.text_columns
        )


def _write(runs: "list[RunData]", output: Path, *, options: PictureOptions, force: bool) -> None:
    from swa_tools.checkpoints import atomic_output, check_output
    from swa_tools.report.contents import overview, run_section
    from swa_tools.report.page import render_page

    first, sections = overview(runs), [run_section(run, runs) for run in runs]
    folders = [output, *(output / one.title.replace("/", "-") for one in sections)]
    if len(runs) == 1:
        folders = [output, output]
    files = {
        folder / f"{name}{suffix}": picture
        for folder, section in zip(folders, (first, *sections), strict=True)
        for name, picture in section.pictures.items()
        for suffix in SUFFIXES
    }
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{error.filename}: cannot create this folder: {error.strerror}"
        ) from error
    for file in (output / PAGE, *files):
        check_output(file, force=force)
    names = ", ".join(run.name for run in runs)
    page = render_page(f"SWA report: {names}", first, sections)
    for file, picture in files.items():
        save_picture(picture, file, options=options, force=force)
    with atomic_output(output / PAGE, force=force) as stream:
        stream.write(page)
    click.echo(f"{output / PAGE}: {len(page):,} bytes; {len(files)} picture files next to it")
