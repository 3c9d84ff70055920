"""`swa-tools finetune`."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import click

from swa_tools.cli.options import (
    PATH,
    KeyValue,
    NumberList,
    amp_option,
    batch_size_option,
    data_options,
    device_option,
    force_option,
    json_option,
    seed_option,
    skip_bad_images_option,
    workers_option,
)
from swa_tools.cli.run_config import read_config, read_resumed
from swa_tools.cli.run_parameters import (
    COUNT,
    POSITIVE,
    SHARE,
    FiniteNumber,
    KeptCheckpoints,
)
from swa_tools.cli.sections import SectionedCommand
from swa_tools.training.options import FinetuneOptions, OptimizerOptions
from swa_tools.training.schedule_options import ScheduleOptions
from swa_tools.training.schedules import SCHEDULES

T = TypeVar("T")

DEFAULTS = FinetuneOptions(output=Path())
SECTIONS = {
    "Model": "checkpoint entry from_run pretrained new_head image_size model_kwargs drop_path",
    "Images": "data train_dir val_dir dataset workers skip_bad_images synthetic_data min_crop_area",
    "Learning rate": "epochs schedule lr_max lr_min cycle_epochs cycle_steps budget_epochs"
    " start_epoch milestones gamma",
    "Optimizer": "batch_size accumulate optimizer momentum nesterov weight_decay"
    " no_decay_norm_bias clip_grad label_smoothing",
    "Averages": "then_average swa_online include_init swa_every keep_checkpoints ema",
    "Speed": "device amp channels_last compile sync_bn",
    "Stopping and going on": "resume resume_if_exists resume_every config allow_nonfinite",
}


@click.command(
    cls=SectionedCommand,
    sections=SECTIONS,
    epilog="\b\nExamples:\n"
    "  swa-tools finetune torchvision/resnet50:IMAGENET1K_V1 --data imagenet -o run\n"
    "  swa-tools finetune timm/mobilenetv2_050 --data photos --new-head --epochs 20"
    " --lr-max 0.01 -o run\n"
    "  torchrun --nproc-per-node 8 -m swa_tools finetune … (the same options)\n"
    "  swa-tools finetune --resume run",
)
@click.argument("model", required=False)
@click.option("-o", "--output", type=PATH, metavar="RUN", help="Run directory to write.")
@click.option(
    "--checkpoint", type=PATH, metavar="FILE", help="Starting weights on disk, not the library's."
)
@click.option("--entry", metavar="KEY", help="Which weights of a pickled --checkpoint.")
@click.option(
    "--from",
    "from_run",
    type=PATH,
    metavar="RUN",
    help="Start at the end of another run, with its optimizer state.",
)
@click.option(
    "--pretrained/--no-pretrained",
    default=DEFAULTS.pretrained,
    help="Start from the library's weights, or from random ones.  [default: pretrained]",
)
@click.option("--new-head", is_flag=True, help="New classifier over the classes of the data.")
@click.option("--image-size", type=COUNT, help="Input size in pixels.  [default: the model's]")
@click.option(
    "--model-kwargs",
    type=KeyValue(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Argument of the model's constructor; may be repeated.",
)
@click.option("--drop-path", type=SHARE, help="Stochastic depth.  [default: the model's]")
@data_options
@workers_option
@skip_bad_images_option
@click.option(
    "--synthetic-data", type=COUNT, metavar="N", help="N random images, to measure speed."
)
@click.option(
    "--epochs",
    type=POSITIVE,
    default=DEFAULTS.epochs,
    show_default=True,
    help="Length of the run; the paper's for ImageNet.",
)
@click.option(
    "--schedule",
    type=click.Choice(SCHEDULES),
    default=DEFAULTS.schedule.schedule,
    show_default=True,
    help="sawtooth is SWA's, triangular FGE's, anneal the paper's conventional SGD.",
)
@click.option("--lr-max", type=POSITIVE, help="α₁.  [default: 0.001, the paper's for ImageNet]")
@click.option("--lr-min", type=float, help="α₂.  [default: 0.00001, the paper's; cosine: 0]")
@click.option("--cycle-epochs", type=POSITIVE, help="Length of a cycle.  [default: 1, the paper's]")
@click.option("--cycle-steps", type=COUNT, help="The same, in optimizer steps.")
@click.option("--budget-epochs", type=POSITIVE, help="Of anneal and cosine.  [default: the run]")
@click.option("--start-epoch", type=float, help="Part of the budget spent before this run.")
@click.option("--milestones", type=NumberList(), metavar="E,E,…", help="Epochs of multistep.")
@click.option("--gamma", type=POSITIVE, help="Factor of multistep.  [default: 0.1]")
@batch_size_option(DEFAULTS.batch_size)
@click.option(
    "--accumulate",
    type=COUNT,
    default=DEFAULTS.accumulate,
    show_default=True,
    help="Compute each batch in so many pieces, where memory is short.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default=DEFAULTS.optimizer.optimizer,
    show_default=True,
)
@click.option(
    "--momentum",
    type=SHARE,
    default=DEFAULTS.optimizer.momentum,
    show_default=True,
    help="As the SWAG authors' ImageNet script; the paper does not say.",
)
@click.option("--nesterov", is_flag=True, help="Nesterov momentum.")
@click.option(
    "--weight-decay",
    type=FiniteNumber(min=0),
    default=DEFAULTS.optimizer.weight_decay,
    show_default=True,
    help="As the SWAG authors' ImageNet script; the paper does not say.",
)
@click.option("--no-decay-norm-bias", is_flag=True, help="No weight decay on norms and biases.")
@click.option("--clip-grad", type=POSITIVE, help="Largest norm of the gradients.")
@click.option(
    "--min-crop-area",
    type=FiniteNumber(min=0, max=1, min_open=True),
    default=DEFAULTS.min_crop_area,
    show_default=True,
    help="Smallest random crop, as a part of the image; more for small or centred objects.",
)
@click.option("--label-smoothing", type=SHARE, default=DEFAULTS.label_smoothing, show_default=True)
@click.option("--ema", type=SHARE, metavar="DECAY", help="Keep a moving average, too (RUN/ema/).")
@click.option(
    "--swa-online",
    is_flag=True,
    help="Keep the average in the run, BatchNorm recomputed and scored (RUN/swa.safetensors).",
)
@click.option(
    "--include-init",
    is_flag=True,
    help="Count the starting weights in the average once, too, as Algorithm 1 is printed.",
)
@click.option(
    "--swa-every", type=COUNT, metavar="N", help="Score it every N captures.  [default: at the end]"
)
@click.option(
    "--keep-checkpoints",
    type=KeptCheckpoints(),
    metavar="all|N|none",
    help="How many captures stay, the newest.  [default: all]",
)
@click.option(
    "--then-average",
    is_flag=True,
    help="Go on to average, recompute BatchNorm and evaluate (RUN/swa.safetensors).",
)
@device_option
@amp_option
@click.option(
    "--channels-last/--no-channels-last",
    default=DEFAULTS.channels_last,
    help="Memory layout.  [default: channels-last]",
)
@click.option("--compile", is_flag=True, help="Use torch.compile.")
@click.option("--sync-bn", is_flag=True, help="BatchNorm over all GPUs of the batch.")
@click.option(
    "--resume",
    type=PATH,
    metavar="RUN",
    is_eager=True,
    callback=read_resumed,
    help="Go on with a run, with its own options.",
)
@click.option("--resume-if-exists", is_flag=True, help="Go on if RUN has begun, else begin it.")
@click.option(
    "--resume-every",
    default=DEFAULTS.resume_every,
    show_default=True,
    metavar="INTERVAL",
    help="Save a point to resume from: 500steps, 0.5epochs, 10min; at every cycle's end anyway.",
)
@click.option(
    "--config",
    type=PATH,
    metavar="FILE",
    is_eager=True,
    callback=read_config,
    help="Take the options of another run from its run.json.",
)
@click.option("--allow-nonfinite", is_flag=True, help="Go on when the loss is NaN or Inf.")
@click.option(
    "--validate-every",
    default=DEFAULTS.validate_every,
    show_default=True,
    metavar="INTERVAL",
    help="cycle, never, or besides: 500steps, 0.25epochs.",
)
@click.option(
    "--log-every",
    type=COUNT,
    default=DEFAULTS.log_every,
    show_default=True,
    help="Steps between two records of the training loss.",
)
@seed_option
@click.option("--tensorboard", is_flag=True, help="Write scalars to RUN/tensorboard/, too.")
@click.option(
    "--plot-schedule", type=PATH, metavar="FILE", help="Draw the learning rate (PNG, SVG, PDF)."
)
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and stop.")
@force_option
@json_option
def command(*, only_plan: bool, as_json: bool, **given: Any) -> int:
    """Fine-tune a pretrained MODEL; save a checkpoint at each minimum of the learning rate.

    MODEL is torchvision/NAME[:WEIGHTS], timm/NAME[.TAG], or timm's hf-hub:… and local-dir:….
    Without options it is the paper's recipe for ImageNet (section 4.2 and A.1): 10 cycles of one
    epoch from 0.001 to 0.00001.
    """
    then_average, tensorboard = given.pop("then_average"), given.pop("tensorboard")
    plot_schedule = given.pop("plot_schedule")
    if then_average and given["swa_online"]:
        raise click.UsageError("--swa-online averages in the run: leave --then-average out.")
    if given["include_init"] and not (then_average or given["swa_online"]):
        raise click.UsageError("--include-init needs an average: --then-average or --swa-online.")
    if only_plan and given["output"] is None:
        given["output"] = DEFAULTS.output
    options = _options(given)
    if only_plan:
        from swa_tools.cli.run_tables import print_plan

        print_plan(options, then_average=then_average, plot_schedule=plot_schedule, as_json=as_json)
        return 0
    from swa_tools.cli.finetune_job import run_job

    return run_job(
        options,
        then_average=then_average,
        tensorboard=tensorboard,
        plot_schedule=plot_schedule,
        as_json=as_json,
    )


def _options(given: dict[str, Any]) -> FinetuneOptions:
    """Sort the parameters of the command into the dataclasses of the library."""
    del given["config"]
    resumed = given.pop("resume")
    if given["output"] is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if resumed is not None and resumed != given["output"]:
        raise click.UsageError("--resume RUN goes on in RUN: leave -o out.")
    schedule = _take(ScheduleOptions, given)
    optimizer = _take(OptimizerOptions, given)
    given["model_kwargs"] = dict(given["model_kwargs"])
    return FinetuneOptions(
        **given, resume=resumed is not None, schedule=schedule, optimizer=optimizer
    )


def _take(cls: type[T], given: dict[str, Any]) -> T:
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: given.pop(name) for name in names})
