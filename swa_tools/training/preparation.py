"""From the options of a run to its first step, or to the step from which it is resumed."""

import dataclasses
from typing import Any

from swa_tools.checkpoints import content_digest
from swa_tools.distributed import Distributed
from swa_tools.errors import TrainingError
from swa_tools.models import save_state_dict
from swa_tools.ranks import together
from swa_tools.run_directory import RunDirectory
from swa_tools.training.averages import OnlineAverage
from swa_tools.training.batches import Loaders, open_loaders
from swa_tools.training.description import Caller, describe_earlier, describe_run
from swa_tools.training.network import build_network, check_network
from swa_tools.training.optimizer import check_optimizer
from swa_tools.training.options import FinetuneOptions, compared, recorded
from swa_tools.training.progress import RunListener
from swa_tools.training.resume import ResumePoint, check_settings
from swa_tools.training.run import Run
from swa_tools.training.run_plan import RunPlan, RunSizes, measure_run, plan_run
from swa_tools.training.schedule_options import steps_of
from swa_tools.training.start import Start, is_resumed, open_start


def open_run(
    options: FinetuneOptions, *, context: Distributed, listener: RunListener, caller: Caller
) -> Run:
    """Set up a run; rank 0 creates its directory.

    Raises:
        SwaToolsError: The run cannot start or be resumed. An earlier run in the same place is then
            left as it was.
    """
    directory = RunDirectory(options.output)
    resuming = context.broadcast(
        together(context, lambda: context.is_main and is_resumed(options, directory))
    )
    start = open_start(options, directory=directory, resuming=resuming, context=context)
    options, plan, loaders = together(
        context, lambda: _prepare(options, start, context=context, caller=caller)
    )
    steps_before = start.epochs_before * plan.steps_per_epoch
    run = Run(
        options=options,
        plan=plan,
        settings=run_settings(options, plan, start, epochs_before=start.epochs_before),
        context=context,
        directory=directory,
        listener=listener if context.is_main else RunListener(),
        start=start,
        loaders=loaders,
        network=build_network(options, start, context=context, steps_before=steps_before),
        online=together(context, lambda: _online(options, start.point)),
    )
    together(context, lambda: _write_beginning(run, caller) if context.is_main else None)
    return run


def preview(
    options: FinetuneOptions, *, context: Distributed, caller: Caller
) -> tuple[RunPlan, RunSizes]:
    """Plan a run without starting it: nothing is downloaded or written.

    Returns:
        The plan, and how much disk space the run will take.

    Raises:
        SwaToolsError: The run could not start.
    """
    options = dataclasses.replace(options, pretrained=False, validate_every="never")
    directory = RunDirectory(options.output)
    start = open_start(options, directory=directory, resuming=options.resume, context=context)
    _, plan, _ = together(context, lambda: _prepare(options, start, context=context, caller=caller))
    has_average = options.swa_online or caller.needs_captures
    return plan, measure_run(start.built.module, options, plan, has_average=has_average)


def _prepare(
    options: FinetuneOptions, start: Start, *, context: Distributed, caller: Caller
) -> tuple[FinetuneOptions, RunPlan, Loaders]:
    """Plan a run, open its loaders, and check everything that a rank can check on its own.

    Returns:
        The options, with the start of an annealing filled in; the plan; and the loaders.

    Raises:
        SwaToolsError: The run makes no sense, or is not the run to resume.
    """
    check_network(options, context)
    check_optimizer(options.optimizer)
    loaders = open_loaders(options, start, context)
    options = _with_start_epoch(options, start, loaders.train.steps_per_epoch)
    plan = plan_run(
        options,
        n_images=len(start.train) if start.train is not None else options.synthetic_data or 0,
        steps_per_epoch=loaders.train.steps_per_epoch,
        world_size=context.world_size,
    )
    if start.point is not None:
        _check_resumed(options, plan, start, start.point)
    _check_averages(options, plan, caller)
    return options, plan, loaders


def _check_resumed(
    options: FinetuneOptions, plan: RunPlan, start: Start, point: ResumePoint
) -> None:
    settings = run_settings(options, plan, start, epochs_before=start.epochs_before)
    check_settings(point.settings, expected=settings, run=options.output)
    if point.step > plan.n_steps:
        raise TrainingError(
            f"{options.output}: --epochs {options.epochs:g} is less than the"
            f" {plan.epoch(point.step):g} epochs ({point.step} steps) that the run has already"
            " done; resume it with at least as many"
        )


def _check_averages(options: FinetuneOptions, plan: RunPlan, caller: Caller) -> None:
    """Refuse to average if there will be no captures, or no images for BatchNorm."""
    if options.keep_checkpoints == 0 and not options.swa_online:
        raise TrainingError(
            "--keep-checkpoints none: nothing of the run would be left; give --swa-online, too"
        )
    if not (options.swa_online or caller.needs_captures):
        return
    flag = "--swa-online" if options.swa_online else "--then-average"
    if not plan.captures:
        raise TrainingError(
            f"{flag}: a run of {plan.n_steps} steps completes no cycle, so there is nothing to"
            " average; give more --epochs or shorter cycles (--cycle-epochs)"
        )
    if options.synthetic_data is not None:
        raise TrainingError(f"{flag} needs images for BatchNorm; leave out --synthetic-data")


def _with_start_epoch(
    options: FinetuneOptions, start: Start, steps_per_epoch: int
) -> FinetuneOptions:
    """Let an annealing continue where the run before (`--from`) stopped it."""
    schedule, before = options.schedule, start.point or start.earlier
    if options.from_run is None or before is None or schedule.start_epoch is not None:
        return options
    started = before.settings.get("schedule start_steps")
    if started is None or schedule.schedule not in ("anneal", "cosine", "multistep"):
        return options
    # A resumed run itself says where it began; the run before it says where it stopped.
    done = started if start.point is not None else started + before.step
    # In whole steps, so that both give the same epoch.
    n_steps = steps_of(done / before.settings["steps per epoch"], steps_per_epoch)
    schedule = dataclasses.replace(schedule, start_epoch=n_steps / steps_per_epoch)
    return dataclasses.replace(options, schedule=schedule)


def run_settings(
    options: FinetuneOptions, plan: RunPlan, start: Start, *, epochs_before: int
) -> dict[str, Any]:
    """Return what the numbers of a run depend on, by names for the user.

    This leaves out its length: a run may be resumed and made longer.
    """
    values = recorded(options)
    settings = {one.title: values[one.name] for one in compared(options)}
    settings["training images"] = plan.n_images
    settings["names of the training images"] = start.train and start.train.digest()
    settings["steps per epoch"] = plan.steps_per_epoch
    settings["epochs before"] = epochs_before or None
    schedule = plan.schedule.to_dict()
    return settings | {f"schedule {name}": value for name, value in schedule.items()}


def _online(options: FinetuneOptions, point: ResumePoint | None) -> OnlineAverage | None:
    if not options.swa_online:
        return None
    online = OnlineAverage(include_init=options.include_init)
    if point is not None and point.online is not None:
        online.load_state_dict(point.online)
    return online


def _write_beginning(run: Run, caller: Caller) -> None:
    """Create the run directory, or cut a resumed run back to its resume point; runs on rank 0."""
    directory, start = run.directory, run.start
    command, earlier = caller.command, None
    if start.point is None:
        directory.create(ema=run.network.ema is not None)
        if run.options.from_run is not None and start.earlier is not None:
            earlier = describe_earlier(RunDirectory(run.options.from_run), start.earlier)
    else:
        directory.truncate_metrics(start.point.metrics_bytes)
        # The command that began the run, not the one that resumes it.
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
        metadata, weights = run.metadata(start.bn, at_start=True), run.network.module.state_dict()
        save_state_dict(directory.start, weights, metadata, force=True)
        if run.online is not None and run.options.include_init:
            digest = content_digest(directory.start)
            run.online.add(weights, name=directory.start.name, digest=digest)
