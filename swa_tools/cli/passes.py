"""Options of the passes over images: which images, how to recompute BatchNorm, how to score."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import click

from swa_tools.cli.declared import Decorator, options_of
from swa_tools.cli.parameter_types import PATH
from swa_tools.data.options import PassOptions

if TYPE_CHECKING:
    import torch

    from swa_tools.batchnorm import BnOptions
    from swa_tools.data import ImageSet
    from swa_tools.evaluation import EvaluationOptions

pass_options = options_of(PassOptions)

view_options: tuple[Decorator, ...] = (
    click.option(
        "--view",
        type=click.Choice(["training", "evaluation"]),
        default="training",
        show_default=True,
        help="Recompute on images prepared as in the run's training, or as in evaluation.",
    ),
    # What the option was called in version 0.1.
    click.option("--augment", "view", flag_value="training", hidden=True),
    click.option("--no-augment", "view", flag_value="evaluation", hidden=True),
)

run_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Random seed.  [default: the run's own, else 0]"
)

_BN_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--estimator",
        type=click.Choice(["population", "batch-mean", "sample-weighted"]),
        default="population",
        show_default=True,
        help="population: mean and variance of all activations; batch-mean: as torch's update_bn;"
        " sample-weighted: as the authors' bn_update.",
    ),
    click.option(
        "--samples",
        "n_samples",
        type=click.IntRange(min=1),
        metavar="N",
        help="Recompute on a random, class-balanced subset of N images.  [default: all]",
    ),
    *view_options,
    click.option(
        "--train-mode",
        is_flag=True,
        help="Recompute with the whole model in train mode, dropout and all, as the authors do.",
    ),
)

save_logits_option = click.option(
    "--save-logits",
    type=PATH,
    metavar="DIR",
    help="Save the logits of each checkpoint there; use those that are there already.",
)


def bn_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--estimator`, `--samples`, `--view` and `--train-mode`."""
    return _add(_BN_OPTIONS, function)


def _add(options: tuple[Decorator, ...], function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def take_bn_options(given: dict[str, Any], *, device: "torch.device") -> "BnOptions":
    """Build the library's options from the parameters of a command.

    Args:
        given: All parameters; those of `bn_options` alone are removed.
        device: Where the model is; it decides what `--amp auto` means.
    """
    from swa_tools.batchnorm import BnOptions

    own = {name: given.pop(name) for name in ("estimator", "n_samples", "view", "train_mode")}
    shared = _of_any_pass(given, device)
    return BnOptions(**own, **shared, batch_size=given["batch_size"], seed=given["seed"])


def take_evaluation_options(
    given: dict[str, Any], *, device: "torch.device"
) -> "EvaluationOptions":
    """Build the library's options from the parameters of a command; see `take_bn_options`."""
    from swa_tools.evaluation import EvaluationOptions

    names = ("ensemble", "allow_stale_bn", "save_logits", "at_once", "compile")
    own = {name: given.pop(name) for name in names if name in given}
    if given["batch_size"] is not None:
        own["batch_size"] = given["batch_size"]
    return EvaluationOptions(**own, **_of_any_pass(given, device), **model_choice(given))


def model_choice(given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `model_options` as the library calls them."""
    return {
        "model": given["model"],
        "model_kwargs": dict(given["model_kwargs"]),
        "num_classes": given["num_classes"],
        "entry": given["entry"],
        "image_size": given["image_size"],
    }


def _of_any_pass(given: dict[str, Any], device: "torch.device") -> dict[str, Any]:
    from swa_tools.distributed import amp_dtype

    names = ("workers", "skip_bad_images", "channels_last")
    return {name: given[name] for name in names} | {"amp": amp_dtype(given["amp"], device)}


def has_split(split: Literal["train", "val"], given: dict[str, Any]) -> bool:
    """Tell whether `data_options` name images of a split at all."""
    from swa_tools import data

    return data.has_split(
        split, data=given["data"], directory=given[f"{split}_dir"], dataset=given["dataset"]
    )


def open_split(split: Literal["train", "val"], given: dict[str, Any]) -> "ImageSet":
    """Return the images that `data_options` name, their classes not mapped to a model yet."""
    from swa_tools import data

    return data.open_split(
        split, data=given["data"], directory=given[f"{split}_dir"], dataset=given["dataset"]
    )
