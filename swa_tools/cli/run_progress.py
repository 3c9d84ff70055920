"""A fine-tuning run as a user sees it: a bar on a terminal, plain lines otherwise."""

import contextlib
import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from swa_tools.cli.output import PLAIN_INTERVAL_SECONDS, notice

if TYPE_CHECKING:
    from swa_tools.distributed import Distributed
    from swa_tools.records import Record
    from swa_tools.training.progress import Progress, RunListener
    from swa_tools.training.run_plan import RunPlan


@contextlib.contextmanager
def watch_run(context: "Distributed") -> Iterator["RunListener"]:
    """Show a run on stderr, once: how far it is, and every validation in a line that stays.

    Yields:
        The listener for the run.
    """
    from swa_tools.training.progress import RunListener

    if not context.is_main:
        yield RunListener()
        return
    has_terminal = sys.stderr is not None and sys.stderr.isatty()
    with _bar() if has_terminal else contextlib.nullcontext((_plain_lines(), notice)) as shown:
        show, write = shown
        yield RunListener(
            on_plan=_announce(write),
            on_progress=show,
            on_record=_validations(write),
            on_notice=write,
        )


def describe_moment(progress: "Progress") -> str:
    """Return the numbers of a step in one line."""
    cycle = "" if progress.cycle is None else f"cycle {progress.cycle}, "
    loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
    return (
        f"{cycle}epoch {progress.epoch:.2f}{loss}, lr {progress.lr:.3g},"
        f" {progress.images_per_second:,.0f} images/s"
    )


def _announce(write: Callable[[str], None]) -> Callable[["RunPlan"], None]:
    def announce(plan: "RunPlan") -> None:
        write(
            f"{plan.n_steps:,} steps of {plan.batch_size} images,"
            f" {plan.steps_per_epoch:,} in an epoch; {len(plan.captures)} captures"
        )
        if plan.incomplete_cycle is not None:
            write(plan.incomplete_cycle)

    return announce


def _validations(write: Callable[[str], None]) -> Callable[["Record"], None]:
    def show(record: "Record") -> None:
        if record.event == "evaluation" and record.top1 is not None:
            name = record.checkpoint or f"step {record.step}"
            average = " (EMA)" if record.kind == "ema" else ""
            write(f"{name}{average}: top-1 {record.top1:.2f} %, nll {record.nll:.4f}")

    return show


def _plain_lines() -> Callable[["Progress"], None]:
    last = time.monotonic()

    def show(progress: "Progress") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_SECONDS:
            last = now
            left = dt.timedelta(seconds=round(progress.seconds_left))
            notice(
                f"step {progress.step:,}/{progress.n_steps:,}: {describe_moment(progress)},"
                f" {left} left"
            )

    return show


@contextlib.contextmanager
def _bar() -> Iterator[tuple[Callable[["Progress"], None], Callable[[str], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (
        BarColumn(bar_width=10),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}", markup=False),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None, visible=False)

        def show(progress: "Progress") -> None:
            bars.update(
                task,
                completed=progress.step,
                total=progress.n_steps,
                description=describe_moment(progress),
                visible=True,
            )

        yield show, bars.console.print
