"""From the options of a run to its first step, or to the step where it is resumed."""

import dataclasses
import time

from swa_tools.checkpoints import content_digest
from swa_tools.distributed import Distributed
from swa_tools.models import save_state_dict
from swa_tools.run_directory import RunDirectory
from swa_tools.training.agreement import Agreement
from swa_tools.training.description import Caller, describe_earlier, describe_run
from swa_tools.training.losses import LossLog
from swa_tools.training.network import build_network
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.plan import RunPlan
from swa_tools.training.preparation import prepare
from swa_tools.training.progress import Listener, Stopwatch
from swa_tools.training.resume import ResumePoint
from swa_tools.training.resuming import is_resumed
from swa_tools.training.run import Run
from swa_tools.training.sizes import RunSizes, measure_run
from swa_tools.training.start import open_start, together


def open_run(
    options: FinetuneOptions, *, context: Distributed, listener: Listener, caller: Caller
) -> Run:
    """Set a run up; rank 0 makes its directory.

    Raises:
        SwaToolsError: It cannot start or be resumed. An earlier run in the same place is then
            still as it was.
    """
    directory = RunDirectory(options.output)
    resuming = context.broadcast(
        together(context, lambda: context.is_main and is_resumed(options, directory))
    )
    start = open_start(options, directory=directory, resuming=resuming, context=context)
    prepared = together(context, lambda: prepare(options, start, context=context, caller=caller))
    module, stepper, ema = build_network(
        prepared.options,
        start,
        context=context,
        steps_before=prepared.epochs_before * prepared.plan.steps_per_epoch,
    )
    point = start.point
    step = 0 if point is None else point.step
    run = Run(
        options=prepared.options,
        plan=prepared.plan,
        settings=prepared.settings,
        context=context,
        directory=directory,
        listener=listener if context.is_main else Listener(),
        start=start,
        module=module,
        stepper=stepper,
        ema=ema,
        online=prepared.online,
        train=prepared.train,
        val=prepared.val,
        epochs_before=prepared.epochs_before,
        validate_every=prepared.validate_every,
        resume_every=prepared.resume_every,
        losses=_losses(point),
        watch=Stopwatch(),
        agreement=Agreement(context, step=step),
        resumed_step=None if point is None else point.step,
        step=step,
        validated_step=None if point is None else point.validated_step,
        saved=None if point is None else (point.step, point.validated_step),
        saved_at=time.monotonic(),
    )
    together(context, lambda: _write_beginning(run, caller) if context.is_main else None)
    return run


def preview(
    options: FinetuneOptions, *, context: Distributed, caller: Caller
) -> tuple[RunPlan, RunSizes]:
    """Plan a run without starting it: nothing is downloaded, nothing written.

    Returns:
        The plan, and what the run will take of the disk.

    Raises:
        SwaToolsError: The run could not start.
    """
    options = dataclasses.replace(options, pretrained=False, validate_every="never")
    directory = RunDirectory(options.output)
    start = open_start(options, directory=directory, resuming=options.resume, context=context)
    prepared = together(context, lambda: prepare(options, start, context=context, caller=caller))
    has_average = options.swa_online or caller.needs_captures
    sizes = measure_run(start.built.module, options, prepared.plan, has_average=has_average)
    return prepared.plan, sizes


def _losses(point: ResumePoint | None) -> LossLog:
    if point is None:
        return LossLog(window=[], epoch_loss=0.0)
    return LossLog(window=list(point.window_losses), epoch_loss=point.epoch_loss)


def _write_beginning(run: Run, caller: Caller) -> None:
    """Make the run directory, or cut a resumed one back to its resume point; runs on rank 0."""
    directory, start = run.directory, run.start
    command, earlier = caller.command, None
    if start.point is None:
        directory.create(ema=run.ema is not None)
        if run.options.from_run is not None and start.earlier is not None:
            earlier = describe_earlier(RunDirectory(run.options.from_run), start.earlier)
    else:
        directory.truncate_metrics(start.point.metrics_bytes)
        # What began it, not what went on with it.
        before = directory.readable_description()
        command, earlier = before.get("command", command), before.get("earlier")
    directory.describe(
        describe_run(
            run.options,
            run.plan,
            info=start.built.info,
            context=run.context,
            caller=dataclasses.replace(caller, command=command),
            earlier=earlier,
        )
    )
    if start.point is None:
        metadata, weights = run.metadata(start.bn, at_start=True), run.module.state_dict()
        save_state_dict(directory.start, weights, metadata, force=True)
        if run.online is not None and run.options.include_init:
            digest = content_digest(directory.start)
            run.online.add(weights, name=directory.start.name, digest=digest)
