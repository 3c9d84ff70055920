"""`swa-tools update-bn`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swa_tools.batchnorm.options import BnOptions
from swa_tools.cli.computing import computing
from swa_tools.cli.declared import options_of, taken
from swa_tools.cli.output import listening, notice, print_json
from swa_tools.cli.parameter_types import PATH
from swa_tools.cli.shared_options import OutputOptions, old_view_flags, output_option
from swa_tools.data.options import ImageSource
from swa_tools.models.choice import ModelChoice

if TYPE_CHECKING:
    from swa_tools.batchnorm import Recomputation


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools update-bn average.safetensors --data imagenet -o swa.safetensors\n"
    "  swa-tools update-bn theirs.pth --model torchvision/resnet50 --data imagenet"
    " --samples 10000 -o swa.safetensors"
)
@click.argument("checkpoint", type=PATH)
@options_of(ImageSource)
@output_option
@options_of(BnOptions, ModelChoice)
@old_view_flags
@options_of(OutputOptions)
def command(*, checkpoint: Path, output: Path, force: bool, as_json: bool, **given: Any) -> None:
    """Recompute the BatchNorm statistics of a CHECKPOINT on the training images.

    Averaged weights need this, because averaged statistics may not fit them. Images are prepared as
    in the training that the weights come from; only BatchNorm layers run in train mode. --estimator
    sample-weighted --train-mode does what the authors' code does.
    """
    from swa_tools.batchnorm import update_checkpoint
    from swa_tools.data import open_split

    source, choice = taken(ImageSource, given), taken(ModelChoice, given)
    options = taken(BnOptions, given)
    with computing(options.device) as context:
        recomputation = update_checkpoint(
            checkpoint,
            output,
            open_split("train", source),
            options=options,
            context=context,
            choice=choice,
            force=force,
            listener=listening(context),
        )
    if context.is_main:
        _print(recomputation, output, as_json=as_json)


def _print(recomputation: "Recomputation", output: Path, *, as_json: bool) -> None:
    report = recomputation.reports[0]
    for line in recomputation.notices():
        notice(f"{output}: {line}")
    if recomputation.n_skipped:
        notice(f"{recomputation.n_skipped} images could not be read and were left out")
    if as_json:
        document = {
            "path": str(output),
            "bn": dataclasses.asdict(recomputation.bn),
            **dataclasses.asdict(report),
            "n_skipped": recomputation.n_skipped,
        }
        print_json(document)
    else:
        view = recomputation.conditions.view
        crops = "as in evaluation" if view.crop == "evaluation" else f"random crops, {view.size} px"
        click.echo(
            f"{output}: {report.n_layers} BatchNorm layers, measured on {report.n_samples:,}"
            f" images ({crops}) in {report.n_batches:,} batch{'es'[: 2 * (report.n_batches != 1)]}"
        )
