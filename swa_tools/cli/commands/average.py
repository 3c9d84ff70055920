"""`swa-tools average`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from swa_tools.averaging import (
    AverageOptions,
    AveragePlan,
    AverageResult,
    Duplicate,
    Selection,
    WeightingOptions,
    average_checkpoints,
    describe_average,
    open_all,
    plan_average,
)
from swa_tools.batchnorm.options import BnOptions
from swa_tools.checkpoints import Checkpoint, check_weights_output, is_torch_name
from swa_tools.checkpoints.remote import as_path, in_parallel
from swa_tools.checkpoints.sharded import split_into_shards
from swa_tools.cli.choosing import chosen_checkpoints
from swa_tools.cli.computing import joined_ranks, setting_of
from swa_tools.cli.declared import names_of, options_of, sections_of, taken
from swa_tools.cli.output import notice, print_json, print_table, progress
from swa_tools.cli.recording import check_results
from swa_tools.cli.sections import SectionedCommand
from swa_tools.cli.shared_options import (
    OutcomeOptions,
    checkpoints_argument,
    old_view_flags,
)
from swa_tools.cli.whole_job import average_recompute_evaluate
from swa_tools.data.options import ImageSource
from swa_tools.errors import SwaToolsError
from swa_tools.models.choice import ModelChoice
from swa_tools.ranks import Ranks, on_first
from swa_tools.run_directory import common_run_of_captures

SECTIONS = {
    **sections_of(Selection, WeightingOptions, AverageOptions),
    "BatchNorm and scores, with images": [*names_of(ImageSource, BnOptions), "results"],
    "Files of other tools": names_of(ModelChoice),
}


@click.command(
    cls=SectionedCommand,
    sections=SECTIONS,
    epilog="\b\nExamples:\n"
    "  swa-tools average run --data imagenet -o swa.safetensors\n"
    "  swa-tools average 'epoch-*.pth' --last 5 -o averaged.safetensors\n"
    "  swa-tools average 's3://bucket/epoch-*.pth' -o averaged.safetensors\n"
    "  torchrun --nproc-per-node 8 -m swa_tools average 'step-*' --max-shard-size 5GB -o averaged/",
)
@checkpoints_argument
@click.option("-o", "--output", metavar="FILE", help="x.safetensors, x.pth, or a folder x/.")
@options_of(Selection, WeightingOptions, AverageOptions)
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and stop.")
@click.option("-v", "--verbose", is_flag=True, help="Say what will be done, then do it.")
@options_of(ImageSource, BnOptions, ModelChoice, OutcomeOptions)
@old_view_flags
def command(
    *,
    checkpoints: tuple[str, ...],
    output: str | None,
    only_plan: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Average checkpoints, streaming, in constant memory.

    CHECKPOINT is a file (safetensors, a sharded index, .pth, .ckpt, …), a model folder, a run
    directory (its captures), a folder of checkpoints or a quoted glob, or the URL of one (hf://,
    s3://, gs://, az://, https://). What holds the same weights counts once. With --data
    the average's BatchNorm statistics are recomputed on the training images, prepared as the run
    trained on them, and it is scored on the validation images, if there are any, beside the
    averaged statistics and the best checkpoint. Under torchrun, each process averages and writes
    shards of its own (--max-shard-size), on a disk that all of them share.
    """
    options, outcome = _options(given), taken(OutcomeOptions, given)
    source = taken(ImageSource, given)
    if output is None and not only_plan:
        raise click.UsageError("Missing option '-o' / '--output'.")
    has_images = bool(source.data or source.train_dir or source.val_dir)
    is_folder = output is not None and output.endswith("/")
    if has_images and (is_folder or options.max_shard_size is not None):
        raise click.UsageError("With --data the output is one file.")

    def choose() -> list[Path]:
        paths = _chosen(checkpoints, options, given)
        if only_plan or verbose:
            with open_all(paths, entry=options.entry, keep_names=options.keep_names) as opened:
                _print_plan(opened, options, as_json=outcome.as_json and only_plan)
        if output is not None and not is_folder and options.max_shard_size is None:
            check_weights_output(as_path(output), force=options.force)
        return paths

    if has_images:
        paths = choose()
        if output is not None and not only_plan:
            _whole_job(paths, as_path(output), options, given)
        return
    with joined_ranks() as ranks:
        paths = on_first(ranks, choose)
        if output is not None and not only_plan:
            _average(paths, output, options, ranks=ranks, as_json=outcome.as_json)


def _chosen(
    checkpoints: tuple[str, ...], options: AverageOptions, given: dict[str, Any]
) -> list[Path]:
    selection = taken(Selection, given)
    choice = chosen_checkpoints(
        checkpoints, selection, entry=options.entry, keep_names=options.keep_names
    )
    _check_factors(choice.duplicates, options)
    paths = choice.paths
    return [_start_of(paths), *paths] if options.include_init else paths


def _options(given: dict[str, Any]) -> AverageOptions:
    try:
        weighting = taken(WeightingOptions, given).weighting
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    others = {"entry": given["entry"], "force": given["force"]}
    return taken(AverageOptions, given, weighting=weighting, **others)


def _average(
    paths: list[Path], output: str, options: AverageOptions, *, ranks: Ranks, as_json: bool
) -> None:
    if ranks.rank > 0:
        average_checkpoints(paths, output, options=options, ranks=ranks)
        return
    sizes = in_parallel(lambda path: path.stat().st_size if path.is_file() else 0, paths)
    n_bytes = sum(sizes) // ranks.world_size
    with progress("averaging", n_bytes or None, unit="bytes") as advance:
        options = dataclasses.replace(options, advance=advance)
        result = average_checkpoints(paths, output, options=options, ranks=ranks)
    _print_result(result, as_json=as_json)


def _whole_job(
    paths: list[Path],
    output: Path,
    options: AverageOptions,
    given: dict[str, Any],
) -> None:
    """Average, recompute BatchNorm on images, and score the result."""
    from swa_tools.data import has_split, open_split

    source, outcome = taken(ImageSource, given), taken(OutcomeOptions, given)
    check_results(outcome.results)
    with setting_of(given) as setting:
        average_recompute_evaluate(
            paths,
            output,
            average=options,
            setting=setting,
            val=open_split("val", source) if has_split("val", source) else None,
            outcome=outcome,
        )


def _check_factors(duplicates: Sequence[Duplicate], options: AverageOptions) -> None:
    """Refuse factors for checkpoints of which some are the same."""
    if options.weighting.name not in ("weights", "interpolate"):
        return
    for duplicate in duplicates:
        raise SwaToolsError(
            f"{duplicate.checkpoint.path}: the same weights as {duplicate.original.path}, so it is"
            " not clear what the factors mean; name each checkpoint once"
        )


def _start_of(paths: Sequence[Path]) -> Path:
    run = common_run_of_captures(paths)
    if run is None:
        raise SwaToolsError(
            "--include-init: the checkpoints are not the captures of one run; name the starting"
            " point as the first checkpoint instead"
        )
    return run.start


def _print_plan(
    checkpoints: Sequence[Checkpoint], options: AverageOptions, *, as_json: bool
) -> None:
    plan = plan_average(checkpoints, options.weighting, dtype=options.dtype, rules=options.rules)
    describe_average(plan)  # for its checks
    n_shards = len(split_into_shards(plan.layout, options.max_shard_size))
    if as_json:
        print_json({**_plan_document(plan), "n_shards": n_shards})
        return
    rows = [
        [str(checkpoint.path), f"{factor / plan.divisor:.5f}", f"{checkpoint.n_bytes:,}"]
        for checkpoint, factor in zip(plan.checkpoints, plan.coefficients, strict=True)
    ]
    print_table(["checkpoint", "weight", "bytes"], rows)
    click.echo(
        f"{_count(plan, 'average')} tensors averaged, {_count(plan, 'last')} taken from the"
        f" last checkpoint, {_count(plan, 'equal')} that must be equal in all;"
        f" {plan.bytes_read:,} bytes to read, {plan.bytes_written:,} to write"
        + (f" in {n_shards} shards" if n_shards > 1 else "")
    )


def _count(plan: AveragePlan, action: str) -> int:
    return sum(tensor.action == action for tensor in plan.tensors)


def _plan_document(plan: AveragePlan) -> dict[str, Any]:
    return {
        "checkpoints": [
            {"path": str(checkpoint.path), "weight": factor / plan.divisor}
            for checkpoint, factor in zip(plan.checkpoints, plan.coefficients, strict=True)
        ],
        "tensors": {action: _count(plan, action) for action in ("average", "last", "equal")},
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
    }


def _print_result(result: AverageResult, *, as_json: bool) -> None:
    if as_json:
        document = {
            "path": str(result.path),
            "digest": result.digest,
            "n_averaged": result.n_averaged,
            "n_copied": result.n_copied,
            "bytes_read": result.bytes_read,
            "metadata": dataclasses.asdict(result.metadata),
        }
        print_json(document)
        return
    average = result.metadata.average
    n_sources = len(average.sources) if average else 0
    click.echo(
        f"{result.path}: the average of {n_sources} checkpoint{'s'[: n_sources != 1]},"
        f" {result.n_averaged} tensors averaged, {result.n_copied} copied"
    )
    if is_torch_name(result.path):
        notice("torch's files keep no metadata: model and BatchNorm's state are not in it")
    if result.metadata.bn.state == "stale":
        model = "" if result.metadata.model and not is_torch_name(result.path) else " --model NAME"
        click.echo(
            "Its BatchNorm statistics are stale: recompute them with `swa-tools update-bn"
            f" {result.path}{model} --data DIR -o FILE` before it is used."
        )
