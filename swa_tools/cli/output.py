"""What the commands print: results on stdout, progress and notices on stderr."""

import contextlib
import datetime as dt
import functools
import json
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from swa_tools.listening import Advance, Listener

if TYPE_CHECKING:
    from swa_tools.distributed import Distributed

PLAIN_INTERVAL_SECONDS = 10.0
"""How often progress prints a line if stderr is not a terminal."""

FOLDED_CHARACTERS = 12
"""Text columns are not folded to less; a terminal that is still too narrow folds the lines."""

LEAST_TITLE = 7
"""Titles of number columns are not folded to less."""

WIDEST = 200
"""The width of tables if stdout is a file or a pipe, instead of a terminal's."""


def command_line() -> str:
    """Return the running command as it was typed: how to reproduce its results."""
    return shlex.join(["swa-tools", *click.get_current_context().find_root().obj])


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def notice(text: str) -> None:
    """Print a line for the user on stderr."""
    click.echo(text, err=True)


def number(value: float | None, *, digits: int = 2) -> str:
    """Return a cell of a table; an empty one for what was not measured."""
    return "" if value is None else f"{value:.{digits}f}"


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str | None = None,
    text_columns: Collection[str] = (),
) -> None:
    """Print a table on stdout, for a terminal of any width: text is folded, numbers never are.

    Args:
        columns: Titles of the columns; the first column holds text.
        rows: Cells.
        caption: What all cells have in common.
        text_columns: Titles of the other columns that hold text; the rest are right-aligned.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if sys.stdout is None:  # closed (>&-)
        return
    # If stdout is a file or a pipe, nothing is folded to the width of a terminal.
    width = None if sys.stdout.isatty() else WIDEST
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
    are_text = [number == 0 or title in text_columns for number, title in enumerate(columns)]
    gaps = 2 * len(columns)
    widths = _column_widths(columns, rows, are_text, available=console.width - gaps)
    console.width = max(console.width, sum(widths) + gaps)
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=caption,
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for title, is_text, width in zip(columns, are_text, widths, strict=True):
        table.add_column(
            title, justify="left" if is_text else "right", width=width, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _column_widths(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    are_text: Sequence[bool],
    *,
    available: int,
) -> list[int]:
    """Narrow the widest columns until all fit, as far as possible; numbers stay whole."""
    widths, least = [], []
    for number, (title, is_text) in enumerate(zip(columns, are_text, strict=True)):
        longest = max((len(row[number]) for row in rows), default=0)
        widths.append(max(longest, len(title)))
        least.append(min(widths[-1], FOLDED_CHARACTERS if is_text else max(longest, LEAST_TITLE)))
    while sum(widths) > available:
        room = [width if width > low else 0 for width, low in zip(widths, least, strict=True)]
        if not any(room):
            break
        widths[room.index(max(room))] -= 1
    return widths


def listening(context: "Distributed") -> Listener:
    """Return what shows on stderr how a piece of work goes, on rank 0; the others say nothing."""
    if not context.is_main:
        return Listener()
    return Listener(on_stage=functools.partial(progress, unit="images"), on_notice=notice)


@contextlib.contextmanager
def progress(description: str, total: int | None, *, unit: str) -> Iterator[Advance]:
    """Show how far a piece of work is, on stderr.

    A terminal shows a bar with rate and time left; otherwise a plain line appears now and then.

    Args:
        description: What is being done.
        total: How much there is to do; None if unknown.
        unit: What is counted, in the plural (`images`, `bytes`).

    Yields:
        A function to call with the amount done since the last call.
    """
    if sys.stderr is not None and sys.stderr.isatty():  # None if it is closed (2>&-)
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        yield _plain_lines(description, total, unit)


@contextlib.contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    start = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=total or 0, unit=unit, rate=0.0)

        def advance(amount: int) -> None:
            done = bars.tasks[0].completed + amount
            rate = done / max(time.monotonic() - start, 1e-9)
            bars.update(task, advance=amount, rate=rate)

        yield advance


def _plain_lines(description: str, total: int | None, unit: str) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(amount: int) -> None:
        nonlocal last, done
        done += amount
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_SECONDS:
            last = now
            rate = done / (now - start)
            of = f"/{total:,}" if total else ""
            left = ""
            if total:
                seconds = max(0, round((total - done) / rate))
                left = f", {dt.timedelta(seconds=seconds)} left"
            notice(f"{description}: {done:,}{of} {unit}, {rate:,.0f}/s{left}")

    return advance
