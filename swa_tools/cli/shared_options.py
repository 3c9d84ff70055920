"""Options that mean the same in every command."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from swa_tools.cli.parameter_types import PATH
from swa_tools.options import option

checkpoints_argument = click.argument(
    "checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...", type=click.Path(readable=False)
)

output_option = click.option(
    "-o", "--output", required=True, type=PATH, metavar="FILE", help="File to write."
)

split_option = click.option(
    "--split",
    type=click.Choice(["val", "train"]),
    default="val",
    show_default=True,
    help="Which images to score on.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How a command writes."""

    force: bool = option(False, help="Replace existing outputs.")
    as_json: bool = option(
        False, help="Print one JSON document on stdout and nothing else.", flag="--json"
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeOptions(OutputOptions):
    """How a command that scores writes, and where its scores go."""

    results: Path | None = option(
        None,
        help="Append the scores to this JSON-lines file.",
        metavar="FILE",
        shown_default="RUN/results.jsonl if all checkpoints come from one run",
    )


def old_view_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the old names of `--view` from version 0.1, below the options that contain it."""
    for name, view in (("--no-augment", "evaluation"), ("--augment", "training")):
        function = click.option(name, "view", flag_value=view, hidden=True)(function)
    return function
