"""Options that mean the same in every command."""

from collections.abc import Callable
from typing import Any

import click

from swa_tools.cli.declared import Decorator, options_of
from swa_tools.cli.parameter_types import PATH, KeyValue
from swa_tools.data.options import ImageSource


def _combine(*decorators: Decorator) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


checkpoints_argument = click.argument(
    "checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...", type=click.Path(readable=False)
)

output_option = click.option(
    "-o", "--output", required=True, type=PATH, metavar="FILE", help="File to write."
)

force_option = click.option("--force", is_flag=True, help="Replace outputs that exist.")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else."
)

seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed."
)

results_option = click.option(
    "--results",
    type=PATH,
    metavar="FILE",
    help="Append the scores to this JSON-lines file."
    "  [default: RUN/results.jsonl where all checkpoints come from one run]",
)

data_options = options_of(ImageSource)

model_options = _combine(
    click.option(
        "--model",
        metavar="MODEL",
        help="torchvision/NAME or timm/NAME, for files that do not say it themselves.",
    ),
    click.option(
        "--model-kwargs",
        type=KeyValue(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Argument of the model's constructor; may be repeated.",
    ),
    click.option("--num-classes", type=click.IntRange(min=1), help="Outputs of the classifier."),
    click.option(
        "--image-size",
        type=click.IntRange(min=1),
        help="Input size in pixels; default the model's.",
    ),
    click.option(
        "--entry",
        metavar="KEY",
        help="Which weights to take from a pickled file that holds several (state_dict_ema …).",
    ),
)
