"""`swa-tools soup`."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from swa_tools.averaging import Selection
from swa_tools.batchnorm.options import BnOptions
from swa_tools.cli.choosing import chosen_checkpoints
from swa_tools.cli.computing import setting_of
from swa_tools.cli.declared import options_of, taken
from swa_tools.cli.output import command_line, notice, print_json, print_table
from swa_tools.cli.recording import check_results, recording
from swa_tools.cli.shared_options import (
    OutcomeOptions,
    checkpoints_argument,
    old_view_flags,
    output_option,
)
from swa_tools.data.options import ImageSource
from swa_tools.evaluation.options import EvaluationOptions
from swa_tools.models.choice import ModelChoice
from swa_tools.records import Record

if TYPE_CHECKING:
    from swa_tools.selection import GreedySoup


@click.command(
    epilog="\b\nExample:\n  swa-tools soup run --data imagenet --held-out 10000 -o soup.safetensors"
)
@checkpoints_argument
@options_of(Selection, ImageSource)
@output_option
@click.option(
    "--split",
    type=click.Choice(["train", "val"]),
    default="train",
    show_default=True,
    help="Choose by held-out training images, or by the validation images, which then no longer"
    " test the soup.",
)
@click.option(
    "--held-out",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of training images to choose by: random, class-balanced.  [default: a tenth]",
)
@click.option(
    "--trial-samples",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    metavar="N",
    help="Number of images to recompute BatchNorm on for each soup on trial.",
)
@options_of(BnOptions)
@old_view_flags
@options_of(EvaluationOptions, only={"save_logits"})
@options_of(ModelChoice, OutcomeOptions)
def command(
    *,
    checkpoints: tuple[str, ...],
    output: Path,
    split: Literal["train", "val"],
    held_out: int | None,
    trial_samples: int,
    **given: Any,
) -> None:
    """Average those CHECKPOINTs that make the average better (greedy soup, Wortsman et al. 2022).

    Starting with the best, each checkpoint is added if the soup's top-1 does not fall. BatchNorm is
    recomputed for every soup. The checkpoints may have been trained on the held-out images, so
    these can rank checkpoints but not test them.
    """
    from swa_tools.data import hold_out, open_split
    from swa_tools.selection import greedy_soup

    if split == "val" and held_out is not None:
        raise click.UsageError("--held-out is a part of the training images: leave --split val out")
    outcome = taken(OutcomeOptions, given)
    paths = chosen_checkpoints(checkpoints, taken(Selection, given), entry=given["entry"]).paths
    check_results(outcome.results)
    with setting_of(given) as setting:
        train = setting.train
        if split == "val":
            chosen_by = open_split("val", taken(ImageSource, given))
        else:
            n_samples = held_out or max(1, len(train) // 10)
            chosen_by, train = hold_out(train, n_samples, seed=setting.bn.seed or 0)
        soup = greedy_soup(
            paths,
            output,
            held_out=chosen_by,
            setting=dataclasses.replace(setting, train=train),
            trial_samples=trial_samples,
            force=outcome.force,
        )
    if not setting.context.is_main:
        return
    with recording([_record(soup, output, split)], outcome.results, paths=paths):
        if outcome.as_json:
            print_json(_document(soup, output, split))
        else:
            _print(soup, output, split)


def _record(soup: "GreedySoup", output: Path, split: str) -> Record:
    about = Record(
        event="evaluation",
        checkpoint=output.name,
        kind="soup",
        bn=soup.recomputation.bn.state,
        split=split,
        command=command_line(),
    )
    return soup.taken[-1].together.record(about)


def _document(soup: "GreedySoup", output: Path, split: str) -> dict[str, Any]:
    candidates = [
        {
            "path": str(step.path),
            "alone": dataclasses.asdict(step.alone),
            "together": dataclasses.asdict(step.together),
            "is_taken": step.is_taken,
        }
        for step in soup.steps
    ]
    return {
        "path": str(output),
        "split": split,
        "bn": dataclasses.asdict(soup.recomputation.bn),
        "candidates": candidates,
    }


def _print(soup: "GreedySoup", output: Path, split: str) -> None:
    for line in soup.recomputation.notices():
        notice(line)
    rows = [
        [
            step.path.name,
            f"{step.alone.top1:.2f}",
            f"{step.together.top1:.2f}",
            "taken" if step.is_taken else "left out",
        ]
        for step in soup.steps
    ]
    n_samples = soup.steps[0].together.n_samples
    images = "held-out training images" if split == "train" else "validation images"
    columns = ["checkpoint", "alone, top-1 %", "soup with it, top-1 %", ""]
    print_table(columns, rows, caption=f"{n_samples:,} {images}")
    click.echo(
        f"{output}: the average of {len(soup.taken)} of {len(soup.steps)} checkpoints; a candidate"
        " is left out if the soup's top-1 would fall"
    )
    if split == "train":
        notice(f"test it with: swa-tools evaluate {shlex.quote(str(output))} --data DIR")
    else:
        notice("chosen by the validation images: top-1 on them does not test this soup")
