"""Everything that a user can say about a fine-tuning run, each option declared once."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from swa_tools.data.options import ImageSource, PassOptions
from swa_tools.options import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Bounds,
    Declared,
    declared,
    option,
    values_of,
)
from swa_tools.training.schedule_options import ScheduleOptions


def parse_kept(text: str) -> int | None:
    """Read how many captures to keep: `all` (None), `none` (0) or a number.

    Raises:
        ValueError: The text is none of these.
    """
    words = {"all": None, "none": 0}
    if text in words:
        return words[text]
    if not text.isdecimal():
        raise ValueError(f"expected all, none or a number, found {text!r}")
    return int(text)


_MODEL: dict[str, Any] = {"section": "Model", "affects": "numbers"}
_UPDATE: dict[str, Any] = {"section": "Optimizer", "affects": "numbers"}
_AVERAGES: dict[str, Any] = {"section": "Averages", "affects": "numbers"}
_GOING_ON: dict[str, Any] = {"section": "Stopping and resuming"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerOptions:
    """The update. The momentum buffer of SGD is not reset when the learning rate jumps."""

    optimizer: Literal["sgd", "adamw"] = option(
        "sgd", help="Optimizer; the paper uses sgd.", **_UPDATE
    )
    momentum: float = option(
        0.9,
        help="Momentum, as in the SWAG authors' ImageNet script; the paper does not say.",
        bounds=SHARE,
        **_UPDATE,
    )
    nesterov: bool = option(False, help="Use Nesterov momentum.", **_UPDATE)
    weight_decay: float = option(
        1e-4,
        help="Weight decay, as in the SWAG authors' ImageNet script; the paper does not say.",
        bounds=NOT_NEGATIVE,
        **_UPDATE,
    )
    no_decay_norm_bias: bool = option(False, help="Do not decay norm layers and biases.", **_UPDATE)
    clip_grad: float | None = option(
        None, help="Clip the gradients to this global norm.", bounds=POSITIVE, **_UPDATE
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions(PassOptions, ImageSource):
    """A fine-tuning run. The defaults are the recipe of the paper's ImageNet experiments."""

    model: str | None = option(
        None,
        help="torchvision/NAME[:WEIGHTS], timm/NAME[.TAG], timm's hf-hub:… or local-dir:….",
        is_argument=True,
        affects="numbers",
    )
    checkpoint: Path | None = option(
        None,
        help="Start from these weights on disk instead of the library's.",
        metavar="FILE",
        **_MODEL,
    )
    entry: str | None = option(
        None,
        help="Which weights to take from a pickled --checkpoint that holds several.",
        metavar="KEY",
        **_MODEL,
    )
    from_run: Path | None = option(
        None,
        help="Start from the end of another run, with its optimizer state.",
        flag="--from",
        metavar="RUN",
        **_MODEL,
    )
    pretrained: bool = option(
        True, help="Start from the library's weights or from random ones.", **_MODEL
    )
    new_head: bool = option(
        False, help="Use a new classifier over the classes of the data.", **_MODEL
    )
    image_size: int | None = option(
        None, help="Input size in pixels.", shown_default="the model's", bounds=COUNT, **_MODEL
    )
    model_kwargs: dict[str, Any] = option(
        factory=dict,
        help="Argument of the model's constructor; may be repeated.",
        metavar="NAME=VALUE",
        **_MODEL,
    )
    drop_path: float | None = option(
        None, help="Rate of stochastic depth.", shown_default="the model's", bounds=SHARE, **_MODEL
    )
    synthetic_data: int | None = option(
        None,
        help="Train on N random images, to measure speed.",
        section="Images",
        metavar="N",
        bounds=COUNT,
        affects="numbers",
    )
    min_crop_area: float = option(
        0.08,
        help="Area of the smallest random crop, as a share of the image; raise it for small or"
        " centred objects.",
        section="Images",
        bounds=Bounds(min=0, max=1, min_open=True),
        affects="numbers",
    )
    epochs: float = option(
        10,
        help="Length of the run; 10 is the paper's for ImageNet.",
        section="Learning rate",
        bounds=POSITIVE,
        affects="numbers",
        may_change=True,
    )
    schedule: ScheduleOptions = dataclasses.field(default_factory=ScheduleOptions)
    batch_size: int = option(
        256, help="Images in a batch, counting all processes together.", bounds=COUNT, **_UPDATE
    )
    accumulate: int = option(
        1,
        help="Compute each batch in N pieces, to save memory.",
        metavar="N",
        section="Optimizer",
        bounds=COUNT,
        affects="bits",
    )
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    label_smoothing: float = option(
        0.0, help="Label smoothing of the cross entropy.", bounds=SHARE, **_UPDATE
    )
    swa_online: bool = option(
        False,
        help="Keep the average during the run, recompute its BatchNorm and score it"
        " (RUN/swa.safetensors).",
        **_AVERAGES,
    )
    include_init: bool = option(
        False,
        help="Also count the starting weights once in the average, as in Algorithm 1.",
        **_AVERAGES,
    )
    swa_every: int | None = option(
        None,
        help="Score the --swa-online average every N captures.",
        section="Averages",
        metavar="N",
        shown_default="at the end",
        bounds=COUNT,
    )
    keep_checkpoints: int | None = option(
        None,
        help="Captures to keep: all, the newest N, or none.",
        section="Averages",
        metavar="all|N|none",
        shown_default="all",
        parse=parse_kept,
    )
    ema: float | None = option(
        None,
        help="Keep an exponential moving average, too (RUN/ema/).",
        metavar="DECAY",
        bounds=SHARE,
        **_AVERAGES,
    )
    compile: bool = option(False, help="Use torch.compile.", section="Speed", affects="bits")
    sync_bn: bool = option(
        False,
        help="Compute BatchNorm over the whole batch, across GPUs.",
        section="Speed",
        affects="bits",
    )
    resume: bool = False
    resume_if_exists: bool = option(
        False, help="Resume RUN if it has begun, else begin it.", is_recorded=False, **_GOING_ON
    )
    resume_every: str = option(
        "10min",
        help="How often to save a point to resume from: 500steps, 0.5epochs, 10min; also saved at"
        " every capture.",
        metavar="INTERVAL",
        **_GOING_ON,
    )
    allow_nonfinite: bool = option(
        False, help="Continue even if the loss is NaN or Inf.", **_GOING_ON
    )
    output: Path = option(
        help="Run directory to write.", short="-o", metavar="RUN", is_recorded=False
    )
    validate_every: str = option(
        "cycle",
        help="When to validate: cycle, never, or an interval in addition to cycle (500steps,"
        " 0.25epochs).",
        metavar="INTERVAL",
    )
    log_every: int = option(
        10, help="Steps between two records of the training loss.", bounds=COUNT
    )
    seed: int = option(0, help="Random seed.", bounds=NOT_NEGATIVE, affects="numbers")
    force: bool = option(False, help="Replace existing outputs.", is_recorded=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What the command does around a run: how it is begun and watched, and what follows.

    None of these options changes a number.
    """

    then_average: bool = option(
        False,
        help="Afterwards average, recompute BatchNorm and evaluate (RUN/swa.safetensors).",
        section="Averages",
    )
    resume: Path | None = option(
        None,
        help="Resume a run, with its own options.",
        metavar="RUN",
        is_recorded=False,
        **_GOING_ON,
    )
    config: Path | None = option(
        None,
        help="Take the options of another run from its run.json.",
        metavar="FILE",
        is_recorded=False,
        **_GOING_ON,
    )
    tensorboard: bool = option(False, help="Also write scalars to RUN/tensorboard/.")
    plot_schedule: Path | None = option(
        None, help="Draw the learning rate (PNG, SVG or PDF).", metavar="FILE", is_recorded=False
    )
    only_plan: bool = option(
        False, help="Only say what would be done.", flag="--plan", is_recorded=False
    )
    as_json: bool = option(
        False,
        help="Print one JSON document on stdout and nothing else.",
        flag="--json",
        is_recorded=False,
    )


def recorded(options: FinetuneOptions | JobOptions) -> dict[str, Any]:
    """Return the options that `run.json` keeps: those of the run, with absolute paths."""
    values = values_of(options)
    return {
        one.name: _to_json(values[one.name]) for one in declared(options) if one.option.is_recorded
    }


def compared(options: type[FinetuneOptions] | FinetuneOptions) -> Iterator[Declared]:
    """Return the options in which a resumed run must agree with the run before."""
    return (
        one
        for one in declared(options)
        if one.option.affects == "numbers" and not one.option.may_change
    )


def _to_json(value: Any) -> Any:
    return str(value.absolute()) if isinstance(value, Path) else value
