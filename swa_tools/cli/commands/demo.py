"""`swa-tools demo`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swa_tools.cli.declared import options_of
from swa_tools.cli.output import notice, print_json, print_table
from swa_tools.cli.parameter_types import PATH
from swa_tools.cli.shared_options import OutputOptions
from swa_tools.statistics import wilson_interval

if TYPE_CHECKING:
    from swa_tools.cli.demo_job import DemoComparison, DemoResult, DemoRow

LEVEL = 0.05
"""The largest p-value at which a difference is called one."""


@click.command(epilog="\b\nExample:\n  swa-tools demo -o swa-demo")
@click.option(
    "-o",
    "--output",
    type=PATH,
    default=Path("swa-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for images, runs, checkpoints and the picture.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed."
)
@options_of(OutputOptions)
def command(*, output: Path, seed: int, force: bool, as_json: bool) -> None:
    """Take all steps on small real data: a minute on a CPU, no download.

    Trains a small timm model on scikit-learn's handwritten digits by conventional SGD, and stops
    early. From there it runs both SWA and the rest of the conventional training. Then it averages,
    recomputes BatchNorm and scores everything.
    """
    from swa_tools.cli.demo_job import run_demo

    result = run_demo(output, seed=seed, force=force)
    if as_json:
        print_json({**dataclasses.asdict(result), "picture": str(result.picture)})
        return
    _print(result)
    notice(f"picture: {result.picture}; the runs: {output}/start, {output}/sgd, {output}/swa")


def _print(result: "DemoResult") -> None:
    captures = result.captures
    best = max(captures, key=lambda row: row.top1)
    lines = [("last capture", captures[-1]), ("best capture", best)]
    others = [(row.name, row) for row in result.rows if row not in captures]
    print_table(
        ["weights", "epochs", "top-1 %", "95 %", "nll"],
        [_cells(name, row, result.n_samples) for name, row in [*others[:2], *lines, *others[2:]]],
        caption=f"{result.n_samples:,} images of val; {len(captures)} captures",
    )
    for line in _verdict(result):
        click.echo(line)


def _cells(name: str, row: "DemoRow", n_samples: int) -> list[str]:
    low, high = wilson_interval(row.top1 / 100 * n_samples, n_samples)
    return [name, f"{row.epochs:g}", f"{row.top1:.2f}", f"{low:.1f} – {high:.1f}", f"{row.nll:.4f}"]


def _verdict(result: "DemoResult") -> Iterator[str]:
    """State the results, whichever way they went."""
    yield "The average (one seed; p is McNemar's, on the same images):"
    epochs = result.row("average").epochs
    for one in result.comparisons:
        name = one.name
        if name == "conventional SGD":
            name += f" with the same {epochs:g} epochs"
        yield f"  {_difference(one)} (p = {one.p_value:.2g}) against {name}"


def _difference(one: "DemoComparison") -> str:
    points = f"{one.difference:+.2f} points"
    if one.p_value >= LEVEL:
        return f"no difference beyond noise: {points}"
    return f"{'better' if one.difference > 0 else 'WORSE'}: {points}"
