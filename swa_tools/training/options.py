"""Everything that a person can say about a fine-tuning run."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Literal

from swa_tools.errors import TrainingError
from swa_tools.training.schedule_options import ScheduleOptions, steps_of

Amp = Literal["auto", "bf16", "fp16", "off"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerOptions:
    """How weights are updated.

    Attributes:
        optimizer: `sgd` or `adamw`.
        momentum: Of SGD. Its buffer is not reset when the learning rate jumps.
        nesterov: Whether SGD looks ahead.
        weight_decay: L2 for SGD, decoupled for AdamW.
        no_decay_norm_bias: Whether vectors (biases, scale and shift of norms) are not decayed.
        clip_grad: Largest global norm of the gradients; None for no clipping.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    no_decay_norm_bias: bool = False
    clip_grad: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions:
    """A fine-tuning run. The defaults are the recipe of the paper's ImageNet experiments.

    Attributes:
        model: `torchvision/NAME[:WEIGHTS]` or `timm/NAME[.TAG]`; None where `checkpoint` or
            `from_run` says it.
        model_kwargs: Arguments of the model's constructor.
        image_size: Size of the input in pixels; None for the model's own.
        pretrained: Whether the library's weights are the start; otherwise random ones.
        checkpoint: File with the starting weights, instead of the library's.
        entry: Which weights of a pickled checkpoint.
        from_run: Run directory whose last weights and optimizer state are the start.
        new_head: Whether the classifier is replaced by a new one over the data's classes.
        drop_path: Rate of stochastic depth; None for the model's own.
        data: Folder with `train/` and `val/`.
        train_dir, val_dir: These two by themselves.
        dataset: Name of a data set that timm's `create_dataset` knows, in `data`, instead.
        synthetic_data: Number of random images to train on instead, to measure speed.
        workers: Processes that decode images; None to choose by the machine.
        skip_bad_images: Whether unreadable images are left out instead of being an error.
        output: The run directory.
        epochs: Length of the run; may be a fraction.
        batch_size: Images of an optimizer step, over all ranks and accumulated pieces together.
        accumulate: Pieces that a rank's share of the batch is computed in, one after another.
        schedule: The learning rate.
        optimizer: The update.
        min_crop_area: Smallest random crop of the augmentation, as a part of the image's area.
        label_smoothing: Of the cross entropy.
        ema: Decay of an exponential moving average of the weights, updated each step.
        swa_online: Whether the average of the captures is kept in the run (Algorithm 1), its
            BatchNorm statistics recomputed and scored, in `swa.safetensors`.
        include_init: Whether the average of the captures counts the starting weights once, too.
        swa_every: Captures between two scores of that average; None for the last capture alone.
        keep_checkpoints: How many captures stay, the newest; None for all.
        amp: Mixed precision; `auto` is bf16 on GPUs that have it, else off.
        channels_last: Whether images and weights are laid out channels last.
        compile: Whether `torch.compile` is used.
        sync_bn: Whether BatchNorm normalises over all ranks (CUDA only).
        device: `auto` or a torch device.
        seed: Of the order of the images, their augmentation, dropout and new weights.
        validate_every: `cycle` (and at the start), `never`, or an interval: `500`, `500steps`,
            `0.25epochs`; captures are validated besides.
        resume_every: How often a point to resume from is saved, besides every cycle's end:
            `500steps`, `0.5epochs`, `10min` or `cycle`.
        log_every: Optimizer steps between two `step` records.
        allow_nonfinite: Whether a loss of NaN or Inf does not stop the run.
        force: Whether a run that is already in `output` is replaced.
        resume: Whether to go on with the run in `output`.
        resume_if_exists: Whether to go on if there is one, and to begin otherwise.
    """

    model: str | None = None
    model_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int | None = None
    pretrained: bool = True
    checkpoint: Path | None = None
    entry: str | None = None
    from_run: Path | None = None
    new_head: bool = False
    drop_path: float | None = None

    data: Path | None = None
    train_dir: Path | None = None
    val_dir: Path | None = None
    dataset: str | None = None
    synthetic_data: int | None = None
    workers: int | None = None
    skip_bad_images: bool = False

    output: Path
    epochs: float = 10
    batch_size: int = 256
    accumulate: int = 1
    schedule: ScheduleOptions = dataclasses.field(default_factory=ScheduleOptions)
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    min_crop_area: float = 0.08
    label_smoothing: float = 0.0
    ema: float | None = None
    swa_online: bool = False
    include_init: bool = False
    swa_every: int | None = None
    keep_checkpoints: int | None = None

    amp: Amp = "auto"
    channels_last: bool = True
    compile: bool = False
    sync_bn: bool = False
    device: str = "auto"
    seed: int = 0

    validate_every: str = "cycle"
    resume_every: str = "10min"
    log_every: int = 10
    allow_nonfinite: bool = False
    force: bool = False
    resume: bool = False
    resume_if_exists: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the options for JSON: the nested ones under their own names, paths absolute."""
        document = dataclasses.asdict(self)
        document |= document.pop("schedule") | document.pop("optimizer")
        return {
            key: str(value.absolute()) if isinstance(value, Path) else value
            for key, value in document.items()
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How often something happens: every so many steps, or minutes; both None for never."""

    steps: int | None = None
    minutes: float | None = None

    def includes(self, step: int) -> bool:
        """Tell whether it happens after a step, counted from 1."""
        return self.steps is not None and step % self.steps == 0


def parse_interval(text: str, *, flag: str, steps_per_epoch: int, minutes: bool) -> Interval:
    """Read `500`, `500steps`, `0.25epochs`, `10min`, `cycle` or `never`.

    What happens at the end of cycles does so anyway, so `cycle` adds nothing to it.

    Args:
        text: What the user wrote.
        flag: The option that it was written for, for the error.
        steps_per_epoch: To count epochs in steps.
        minutes: Whether minutes are allowed.

    Raises:
        TrainingError: It is none of these, or not above 0.
    """
    if text in ("cycle", "never"):
        return Interval()
    match = re.fullmatch(r"([0-9.]+) *(steps?|epochs?|min|)", text)
    unit = match[2] if match else ""
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        value = 0.0
    if unit.startswith("epoch"):
        value = steps_of(value, steps_per_epoch)
    is_whole = unit == "min" or value == math.floor(value)
    if value <= 0 or not is_whole or (unit == "min" and not minutes):
        examples = "500steps, 0.25epochs" + (", 10min" if minutes else "") + ", cycle or never"
        raise TrainingError(f"{flag} {text}: expected a number of at least one step: {examples}")
    return Interval(minutes=value) if unit == "min" else Interval(steps=int(value))
