"""What follows from the options and the start of a run, before its network is built."""

import dataclasses
import functools
from typing import Any

from swa_tools.data import Loader, evaluation_loader, training_loader
from swa_tools.distributed import Distributed
from swa_tools.errors import TrainingError
from swa_tools.training.description import Caller
from swa_tools.training.intervals import Interval, parse_interval
from swa_tools.training.network import check_network
from swa_tools.training.online import OnlineAverage
from swa_tools.training.optimizer import check_optimizer
from swa_tools.training.options import FinetuneOptions, compared, recorded
from swa_tools.training.plan import RunPlan, plan_run
from swa_tools.training.resume import ResumePoint, check_settings
from swa_tools.training.run import EpochLoader
from swa_tools.training.schedule_options import steps_of
from swa_tools.training.start import Start, training_view_of
from swa_tools.training.synthetic import SyntheticLoader


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that can be set up: nothing that a rank can check by itself is wrong with it.

    Attributes:
        options: The run's, with the start of an annealing as it is found.
        plan: What follows from them.
        epochs_before: Epochs of the runs that this one continues.
        settings: What a resumed run must have in common with this one.
        train, val: The images; no `val` where nothing is validated.
        online: The average of captures, if one is kept in the run.
        validate_every, resume_every: Besides at captures.
    """

    options: FinetuneOptions
    plan: RunPlan
    epochs_before: int
    settings: dict[str, Any]
    train: EpochLoader
    val: Loader | None
    online: OnlineAverage | None
    validate_every: Interval
    resume_every: Interval


def prepare(
    options: FinetuneOptions, start: Start, *, context: Distributed, caller: Caller
) -> Prepared:
    """Plan a run and check everything that a rank can check by itself.

    Raises:
        SwaToolsError: The run makes no sense, or is not the one that is resumed.
    """
    check_network(options, context)
    check_optimizer(options.optimizer)
    _check_batch(options, context)
    train = _training_loader(options, start, context)
    options = _with_start_epoch(options, start, train.steps_per_epoch)
    plan = _plan(options, start, train, context)
    epochs_before = _epochs_before(start)
    settings = run_settings(options, plan, start, epochs_before=epochs_before)
    if start.point is not None:
        check_settings(start.point.settings, expected=settings, run=options.output)
        _check_length(options, plan, start.point)
    if not plan.captures and (options.swa_online or caller.needs_captures):
        flag = "--swa-online" if options.swa_online else "--then-average"
        raise TrainingError(
            f"{flag}: the run of {plan.n_steps} steps completes no cycle, so there is nothing to"
            " average; give more --epochs or shorter cycles (--cycle-epochs)"
        )
    if options.synthetic_data is not None and caller.needs_captures:
        raise TrainingError("--then-average needs images for BatchNorm; leave --synthetic-data out")
    interval = functools.partial(parse_interval, steps_per_epoch=plan.steps_per_epoch)
    return Prepared(
        options=options,
        plan=plan,
        epochs_before=epochs_before,
        settings=settings,
        train=train,
        val=_validation_loader(options, start, context),
        online=_online(options, start.point),
        validate_every=interval(options.validate_every, flag="--validate-every", minutes=False),
        resume_every=interval(options.resume_every, flag="--resume-every", minutes=True),
    )


def _check_batch(options: FinetuneOptions, context: Distributed) -> None:
    if options.batch_size % context.world_size:
        raise TrainingError(
            f"--batch-size {options.batch_size}: {context.world_size} processes cannot share it"
            " evenly; start as many as divide it (a resumed run keeps its --batch-size), or give"
            " another"
        )


def _check_length(options: FinetuneOptions, plan: RunPlan, point: ResumePoint) -> None:
    if point.step > plan.n_steps:
        raise TrainingError(
            f"{options.output}: --epochs {options.epochs:g} ends the run before the"
            f" {plan.epoch(point.step):g} epochs ({point.step} steps) that it has done; resume it"
            " with as many or more"
        )


def _with_start_epoch(
    options: FinetuneOptions, start: Start, steps_per_epoch: int
) -> FinetuneOptions:
    """Let an annealing go on where the run before (`--from`) has stopped it."""
    schedule, before = options.schedule, start.point or start.earlier
    if options.from_run is None or before is None or schedule.start_epoch is not None:
        return options
    started = before.settings.get("schedule start_steps")
    if started is None or schedule.schedule not in ("anneal", "cosine", "multistep"):
        return options
    # A resumed run says itself where it began, the run before it where it stopped.
    done = started if start.point is not None else started + before.step
    # In whole steps, so that both give the same.
    n_steps = steps_of(done / before.settings["steps per epoch"], steps_per_epoch)
    schedule = dataclasses.replace(schedule, start_epoch=n_steps / steps_per_epoch)
    return dataclasses.replace(options, schedule=schedule)


def _epochs_before(start: Start) -> int:
    """Return the epochs, begun ones included, of the runs that this one continues (`--from`).

    Order and augmentation go on after them instead of coming again.
    """
    if start.point is not None:
        return int(start.point.settings.get("epochs before") or 0)
    if start.earlier is None:
        return 0
    settings = start.earlier.settings
    begun = -(-start.earlier.step // int(settings["steps per epoch"]))
    return int(settings.get("epochs before") or 0) + begun


def _training_loader(options: FinetuneOptions, start: Start, context: Distributed) -> EpochLoader:
    shared: dict[str, Any] = {
        "batch_size": options.batch_size,
        "device": context.device,
        "seed": options.seed,
        "rank": context.rank,
        "world_size": context.world_size,
        "channels_last": options.channels_last,
    }
    preprocessing = start.built.preprocessing
    if start.train is None:
        n_images, num_classes = options.synthetic_data or 0, start.built.info.num_classes
        return SyntheticLoader(n_images, preprocessing, num_classes=num_classes, **shared)
    return training_loader(
        start.train,
        preprocessing,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
        view=training_view_of(options, preprocessing),
        **shared,
    )


def _validation_loader(
    options: FinetuneOptions, start: Start, context: Distributed
) -> Loader | None:
    if start.val is None:
        return None
    return evaluation_loader(
        start.val,
        start.built.preprocessing,
        batch_size=max(1, options.batch_size // context.world_size),
        device=context.device,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
        rank=context.rank,
        world_size=context.world_size,
        channels_last=options.channels_last,
    )


def _plan(
    options: FinetuneOptions, start: Start, train: EpochLoader, context: Distributed
) -> RunPlan:
    n_images = len(start.train) if start.train is not None else options.synthetic_data or 0
    return plan_run(
        options.schedule,
        epochs=options.epochs,
        n_images=n_images,
        steps_per_epoch=train.steps_per_epoch,
        batch_size=min(options.batch_size, n_images),
        world_size=context.world_size,
        accumulate=options.accumulate,
    )


def run_settings(
    options: FinetuneOptions, plan: RunPlan, start: Start, *, epochs_before: int
) -> dict[str, Any]:
    """Return what the numbers of a run depend on, by names for the user.

    Its length is not among them: a run may be resumed to go on for longer.
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
        if options.keep_checkpoints == 0:
            raise TrainingError(
                "--keep-checkpoints none: nothing would be left of the run; give --swa-online, too"
            )
        return None
    if options.synthetic_data is not None:
        raise TrainingError("--swa-online needs images for BatchNorm; leave --synthetic-data out")
    online = OnlineAverage(include_init=options.include_init)
    if point is not None and point.online is not None:
        online.load_state_dict(point.online)
    return online
