"""`swa-tools evaluate`."""

from pathlib import Path
from typing import Any, Literal

import click

from swa_tools.cli.computing import computing
from swa_tools.cli.declared import options_of, taken
from swa_tools.cli.output import command_line, listening, notice
from swa_tools.cli.recording import check_results, recording
from swa_tools.cli.score_tables import print_scores
from swa_tools.cli.shared_options import OutcomeOptions, checkpoints_argument
from swa_tools.data.options import ImageSource
from swa_tools.evaluation.options import EvaluationOptions


@click.command(
    epilog="\b\nExamples:\n"
    "  swa-tools evaluate run swa.safetensors --data imagenet --ensemble\n"
    "  swa-tools evaluate theirs.pth --model torchvision/resnet50 --data imagenet"
)
@checkpoints_argument
@options_of(ImageSource)
@click.option(
    "--split",
    type=click.Choice(["val", "train"]),
    default="val",
    show_default=True,
    help="Which images to score on; training images are prepared as for evaluation, too.",
)
@options_of(EvaluationOptions)
@click.option("--per-class", is_flag=True, help="Also print the top-1 of each class.")
@options_of(OutcomeOptions, only=("results", "as_json"))
def command(
    *,
    checkpoints: tuple[str, ...],
    split: Literal["train", "val"],
    per_class: bool,
    results: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Score one or many CHECKPOINTs of a model in one pass over the images.

    Every image is read once for all of them. Top-1 with its 95 % interval, top-5 and the
    calibration error are in percent; nll is the mean negative log-likelihood. p is from McNemar's
    exact test against the best on the same images: above 0.05, consider the two equal.
    """
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.data import open_split
    from swa_tools.evaluation import evaluate_checkpoints

    source, options = taken(ImageSource, given), taken(EvaluationOptions, given)
    paths = find_checkpoints(checkpoints)
    check_results(results)
    with computing(options.device) as context:
        scores = evaluate_checkpoints(
            paths,
            open_split(split, source),
            options=options,
            context=context,
            listener=listening(context),
        )
    if not context.is_main:
        return
    for line in scores.notices:
        notice(line)
    if scores.n_skipped:
        notice(f"{scores.n_skipped} images could not be read and were left out")
    records = scores.records(split=split, command=command_line())
    with recording(records, results, paths=paths):
        print_scores(scores, split=split, per_class=per_class, as_json=as_json)
