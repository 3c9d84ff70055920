"""Options that mean the same in every command."""

from collections.abc import Callable
from typing import Any

import click

from swa_tools.cli.parameter_types import PATH

checkpoints_argument = click.argument(
    "checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...", type=click.Path(readable=False)
)

output_option = click.option(
    "-o", "--output", required=True, type=PATH, metavar="FILE", help="File to write."
)

force_option = click.option("--force", is_flag=True, help="Replace existing outputs.")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else."
)

seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed."
)

results_option = click.option(
    "--results",
    type=PATH,
    metavar="FILE",
    help="Append the scores to this JSON-lines file."
    "  [default: RUN/results.jsonl if all checkpoints come from one run]",
)

split_option = click.option(
    "--split",
    type=click.Choice(["val", "train"]),
    default="val",
    show_default=True,
    help="Which images to score on.",
)


def old_view_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the old names of `--view` from version 0.1, below the options that contain it."""
    for name, view in (("--no-augment", "evaluation"), ("--augment", "training")):
        function = click.option(name, "view", flag_value=view, hidden=True)(function)
    return function
