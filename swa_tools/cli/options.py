"""Options that mean the same in every command.

Paths are checked by the library, not by click, so that a missing file is an error (status 1), not
wrong usage (status 2).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path, readable=False)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _combine(*decorators: Decorator) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


class KeyValue(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """`NAME=VALUE`, the value read as JSON where it is JSON, else as text."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return the pair; fail with a usage error where there is no `=`."""
        if isinstance(value, tuple):
            return value
        name, separator, text = str(value).partition("=")
        if not separator or not name:
            self.fail(f"expected NAME=VALUE, found {value!r}", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


class NumberList(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Numbers separated by commas."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers; fail with a usage error where one is none."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected numbers separated by commas, found {value!r}", param, ctx)


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

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that decode images.  [default: by the number of cores]",
)

amp_option = click.option(
    "--amp",
    type=click.Choice(["auto", "bf16", "fp16", "off"]),
    default="auto",
    show_default=True,
    help="Mixed precision; auto is bf16 on GPUs that have it, else off.",
)

skip_bad_images_option = click.option(
    "--skip-bad-images", is_flag=True, help="Count images that cannot be read, and go on."
)


def batch_size_option(default: int) -> Decorator:
    """`--batch-size`, over all ranks together."""
    return click.option(
        "--batch-size",
        default=default,
        show_default=True,
        type=click.IntRange(min=1),
        help="Images in a batch, over all processes together.",
    )


data_options = _combine(
    click.option(
        "--data",
        type=PATH,
        metavar="DIR",
        help="Folder with train/ and val/ (or validation/), one folder per class in each, or tar"
        " files of such.",
    ),
    click.option("--train-dir", type=PATH, metavar="DIR", help="Training images, by themselves."),
    click.option("--val-dir", type=PATH, metavar="DIR", help="Validation images, by themselves."),
    click.option(
        "--dataset",
        metavar="NAME",
        help="What lies in --data instead: wds/ for WebDataset shards, or a name that timm's"
        " create_dataset knows (torch/cifar10, hfds/…).",
    ),
)

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

run_options = _combine(device_option, workers_option, amp_option, skip_bad_images_option)
