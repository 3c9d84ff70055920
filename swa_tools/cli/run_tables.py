"""What `finetune` prints: the plan before a run, the scores after it."""

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.output import notice, number, print_json, print_table
from swa_tools.cli.pictures import save_picture

if TYPE_CHECKING:
    from swa_tools.records import Record
    from swa_tools.training import FinetuneResult
    from swa_tools.training.options import FinetuneOptions, JobOptions
    from swa_tools.training.run_plan import RunSizes


def print_plan(options: "FinetuneOptions", job: "JobOptions") -> None:
    """Print what a run would do, and draw its learning rate; only on rank 0."""
    from swa_tools.cli.schedule_picture import schedule_picture
    from swa_tools.distributed import distributed
    from swa_tools.training.description import Caller
    from swa_tools.training.preparation import preview

    with distributed(options.device) as context:
        caller = Caller(needs_captures=job.then_average)
        plan, sizes = preview(options, context=context, caller=caller)
    if not context.is_main:
        return
    if job.plot_schedule is not None:
        save_picture(schedule_picture(plan), job.plot_schedule, force=options.force)
    if job.as_json:
        print_json({**plan.to_dict(), **sizes.to_dict()})
        return
    constants = plan.schedule.to_dict()
    name = constants.pop("name")
    click.echo(f"images      {plan.n_images:,} for training")
    click.echo(
        f"batch       {plan.batch_size} = {plan.world_size} processes × {plan.accumulate} pieces ×"
        f" {plan.piece_size} images"
    )
    click.echo(
        f"steps       {plan.n_steps:,} = {plan.epoch(plan.n_steps):g} epochs of"
        f" {plan.steps_per_epoch:,}"
    )
    click.echo(f"schedule    {name}, {', '.join(f'{k} {v}' for k, v in constants.items())}")
    click.echo(
        f"            learning rate {plan.schedule.lr(1):g} in the first step,"
        f" {plan.schedule.lr(plan.n_steps):g} in the last"
    )
    _print_sizes(sizes, n_captures=len(plan.captures))
    if plan.incomplete_cycle is not None:
        click.echo(f"            {plan.incomplete_cycle}")
    rows = [
        [str(number), f"{step:,}", f"{plan.epoch(step):.2f}", f"{plan.schedule.lr(step):g}"]
        for number, step in enumerate(plan.captures, start=1)
    ]
    print_table(["capture", "after step", "epoch", "learning rate"], rows)


def _print_sizes(sizes: "RunSizes", *, n_captures: int) -> None:
    kept = "" if sizes.n_kept == n_captures else f" ({sizes.n_kept} kept)"
    beside = ", their moving averages" if sizes.ema_bytes else ""
    average = ", their average" if sizes.average_bytes else ""
    click.echo(
        f"captures    {n_captures}{kept} of {_megabytes(sizes.checkpoint_bytes)} each,"
        f" {_megabytes(sizes.captures_bytes)} together"
    )
    click.echo(
        f"disk        {_megabytes(sizes.total_bytes)} with the start{beside}{average} and the point"
        f" to resume from ({_megabytes(sizes.resume_bytes)}, twice while it is being replaced)"
    )


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def print_result(result: "FinetuneResult", *, as_json: bool) -> None:
    """Print the scores of all checkpoints, and how to continue."""
    from swa_tools.run_directory import RunDirectory

    metrics = RunDirectory(result.run).read_metrics()
    scored = [record for record in metrics if record.event == "evaluation"]
    if as_json:
        print_json(_result_document(result, scored))
    else:
        rows = [_row(record) for record in scored if record.checkpoint]
        columns = ["checkpoint", "epoch", "learning rate", "top-1 %", "top-5 %", "nll"]
        print_table(columns, rows)
    if result.n_skipped:
        notice(f"{result.n_skipped} images could not be read and were left out")
    if result.stopped_by is None:
        notice(f"{describe_speed(result)}{_next(result)}")
    else:
        notice(
            f"stopped by {result.stopped_by.name} after step {result.step:,} of"
            f" {result.n_steps:,}; continue with: swa-tools finetune --resume"
            f" {shlex.quote(str(result.run))}"
        )


def _next(result: "FinetuneResult") -> str:
    """Say what to do with the captures, if there is anything to do."""
    if result.average is not None:
        return f"; the average of the captures is {result.average}"
    if len(result.captures) < 2:
        return ""
    run = shlex.quote(str(result.run))
    return f"; average the captures with: swa-tools average {run} --data DIR -o FILE"


def describe_speed(result: "FinetuneResult") -> str:
    """Say in a line how long the run was and how fast it went."""
    if not result.images_per_second:
        return f"the run was already complete: {result.n_steps:,} steps"
    return (
        f"{result.n_steps:,} steps, {result.images_per_second:,.0f} images/s,"
        f" {result.seconds_saving:.1f} s spent on points to resume from"
    )


def _row(record: "Record") -> list[str]:
    average = "ema/" if record.kind == "ema" else ""
    return [
        f"{average}{record.checkpoint}",
        f"{record.epoch or 0:.2f}",
        "" if record.lr is None else f"{record.lr:g}",
        number(record.top1),
        number(record.top5),
        number(record.nll, digits=4),
    ]


def _result_document(result: "FinetuneResult", scored: "list[Record]") -> dict[str, Any]:
    return {
        "run": str(result.run),
        "step": result.step,
        "n_steps": result.n_steps,
        "stopped_by": result.stopped_by.name if result.stopped_by else None,
        "images_per_second": result.images_per_second,
        "seconds_saving": result.seconds_saving,
        "n_skipped": result.n_skipped,
        "checkpoints": [str(path) for path in result.captures],
        "evaluations": [json.loads(record.to_json()) for record in scored],
    }
