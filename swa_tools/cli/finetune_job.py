"""What `finetune` does with its options: the run, its pictures and logs, and what comes after."""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from swa_tools.checkpoints import check_output
from swa_tools.cli.computing import computing
from swa_tools.cli.output import command_line, listening, notice
from swa_tools.cli.pictures import save_picture
from swa_tools.cli.run_progress import watch_run
from swa_tools.cli.run_tables import describe_speed, print_result
from swa_tools.cli.schedule_picture import schedule_picture
from swa_tools.cli.shared_options import OutcomeOptions
from swa_tools.cli.tensorboard import log_scalars
from swa_tools.cli.whole_job import average_recompute_evaluate
from swa_tools.errors import SwaToolsError
from swa_tools.ranks import together
from swa_tools.training.options import FinetuneOptions, JobOptions, recorded

if TYPE_CHECKING:
    from swa_tools.distributed import Distributed
    from swa_tools.training import FinetuneResult
    from swa_tools.training.progress import RunListener
    from swa_tools.training.run_plan import RunPlan

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


def run_job(options: FinetuneOptions, job: JobOptions) -> int:
    """Fine-tune, print the results, and continue to the average if wanted.

    Returns:
        The exit status.
    """
    from swa_tools.training import finetune
    from swa_tools.training.description import Caller

    caller = Caller(command=command_line(), options=recorded(job), needs_captures=job.then_average)
    with computing(options.device) as context:
        with contextlib.ExitStack() as stack:
            watching = _watching(options, job, context)
            listener = together(context, lambda: stack.enter_context(watching))
            result = finetune(options, context=context, listener=listener, caller=caller)
        if job.then_average and result.stopped_by is None:
            if context.is_main:
                notice(describe_speed(result))
            _average(result, options, context, as_json=job.as_json)
        elif context.is_main:
            print_result(result, as_json=job.as_json)
        # No rank closes its connections while another still works; one may already be gone.
        with contextlib.suppress(SwaToolsError):
            context.barrier()
    return EXIT_STATUS[result.stopped_by] if result.stopped_by else 0


@contextlib.contextmanager
def _watching(
    options: FinetuneOptions, job: JobOptions, context: "Distributed"
) -> Iterator["RunListener"]:
    """Show a run, log its scalars and draw its schedule, on rank 0."""
    from swa_tools.run_directory import RunDirectory

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(watch_run(context))
        if context.is_main and job.plot_schedule is not None:
            check_output(job.plot_schedule, force=options.force)
            listener = _drawing(listener, job.plot_schedule, force=options.force)
        if context.is_main and job.tensorboard:
            folder = RunDirectory(options.output).tensorboard
            listener = stack.enter_context(log_scalars(folder, listener))
        yield listener


def _drawing(listener: "RunListener", path: Path, *, force: bool) -> "RunListener":
    def on_plan(plan: "RunPlan") -> None:
        save_picture(schedule_picture(plan), path, force=force)
        listener.on_plan(plan)

    return dataclasses.replace(listener, on_plan=on_plan)


def _average(
    result: "FinetuneResult", options: FinetuneOptions, context: "Distributed", *, as_json: bool
) -> None:
    """Average the captures into the run directory, as `average --data` does; on every rank."""
    from swa_tools.averaging import AverageOptions
    from swa_tools.batchnorm import BnOptions
    from swa_tools.data import has_split, open_split
    from swa_tools.evaluation import EvaluationOptions
    from swa_tools.run_directory import RunDirectory
    from swa_tools.selection import Setting

    batch_size = -(-options.batch_size // (context.world_size * options.accumulate))
    directory = RunDirectory(result.run)
    captures = list(result.captures)
    average_recompute_evaluate(
        [directory.start, *captures] if options.include_init else captures,
        directory.average,
        average=AverageOptions(force=True, include_init=options.include_init),
        setting=Setting(
            train=open_split("train", options),
            bn=BnOptions.as_in(options),
            # What fits into memory with gradients fits without.
            evaluation=EvaluationOptions.as_in(options, batch_size=max(64, batch_size)),
            context=context,
            listener=listening(context),
        ),
        val=open_split("val", options) if has_split("val", options) else None,
        outcome=OutcomeOptions(as_json=as_json),
    )
