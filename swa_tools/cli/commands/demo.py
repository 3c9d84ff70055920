"""`swa-tools demo`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swa_tools.cli.options import force_option, json_option, seed_option
from swa_tools.cli.output import notice, print_json, print_table
from swa_tools.cli.parameter_types import PATH

if TYPE_CHECKING:
    from swa_tools.cli.demo_job import DemoResult, DemoRow


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
@seed_option
@force_option
@json_option
def command(*, output: Path, seed: int, force: bool, as_json: bool) -> None:
    """Go the whole way on small real data: a minute on a CPU, no download.

    scikit-learn's handwritten digits, a small timm model trained by conventional SGD that is
    stopped early; from there SWA and, beside it, the rest of the conventional training. Then the
    average, its BatchNorm recomputed, and the scores of everything.
    """
    from swa_tools.cli.demo_job import run_demo

    result = run_demo(output, seed=seed, force=force)
    if as_json:
        print_json({**dataclasses.asdict(result), "picture": str(result.picture)})
        return
    print_table(["weights", "epochs", "top-1 %", "nll"], [_cells(row) for row in result.rows])
    click.echo(_verdict(result))
    notice(f"picture: {result.picture}; the runs: {output}/start, {output}/sgd, {output}/swa")


def _cells(row: "DemoRow") -> list[str]:
    return [row.name, f"{row.epochs:g}", f"{row.top1:.2f}", f"{row.nll:.4f}"]


def _verdict(result: "DemoResult") -> str:
    """Say in a sentence what came out, whichever way it went."""
    average, control = result.row("average"), result.row("conventional SGD")
    difference = round(average.top1 - control.top1, 2)
    if difference == 0:
        compared = "as good as"
    else:
        compared = f"{abs(difference):.2f} points {'better' if difference > 0 else 'WORSE'} than"
    return (
        f"The average is {compared} conventional SGD with the same {average.epochs:g} epochs, on"
        f" {result.n_samples:,} images (one seed; p = {result.p_value:.2g}, McNemar)."
    )
