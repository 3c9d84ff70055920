"""From the options of a run to its first step, or to the step where it is resumed."""

import dataclasses
import functools
import os
import time
from typing import Any

import timm.layers
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swa_tools.data import Loader, evaluation_loader, training_loader
from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.errors import TrainingError
from swa_tools.models import load_into, save_state_dict
from swa_tools.training.description import describe_run
from swa_tools.training.ema import ExponentialAverage
from swa_tools.training.losses import LossLog
from swa_tools.training.online import OnlineAverage
from swa_tools.training.optimizer import build_optimizer, load_optimizer
from swa_tools.training.options import FinetuneOptions, parse_interval
from swa_tools.training.plan import RunPlan, plan_run
from swa_tools.training.progress import Listener, Stopwatch
from swa_tools.training.resume import ResumePoint, check_settings
from swa_tools.training.run import EpochLoader, Run
from swa_tools.training.run_directory import RunDirectory
from swa_tools.training.start import Start, open_start, together
from swa_tools.training.step import Stepper
from swa_tools.training.synthetic import SyntheticLoader


def open_run(options: FinetuneOptions, *, context: Distributed, listener: Listener) -> Run:
    """Set a run up; rank 0 makes its directory.

    Raises:
        SwaToolsError: It cannot start or be resumed. An earlier run in the same place is then
            still as it was.
    """
    directory = RunDirectory(options.output)
    resuming = context.broadcast(
        together(context, lambda: context.is_main and _is_resumed(options, directory))
    )
    start = open_start(options, directory=directory, resuming=resuming, context=context)
    options = _with_start_epoch(options, start.earlier)
    train = _training_loader(options, start, context)
    plan = _plan(options, start, train, context)
    settings = run_settings(options, plan, start)
    point = start.point
    if point is not None:
        check_settings(point.settings, expected=settings, run=directory.path)
    interval = functools.partial(parse_interval, steps_per_epoch=plan.steps_per_epoch)
    validate_every = interval(options.validate_every, flag="--validate-every", minutes=False)
    resume_every = interval(options.resume_every, flag="--resume-every", minutes=True)
    module, stepper, ema = _network(options, start, context)
    run = Run(
        options=options,
        plan=plan,
        settings=settings,
        context=context,
        directory=directory,
        listener=listener if context.is_main else Listener(),
        start=start,
        module=module,
        stepper=stepper,
        ema=ema,
        online=_online(options, point),
        train=train,
        val=_validation_loader(options, start, context),
        validate_every=validate_every,
        resume_every=resume_every,
        losses=_losses(point),
        watch=Stopwatch(),
        resumed_step=None if point is None else point.step,
        step=0 if point is None else point.step,
        validated_step=None if point is None else point.validated_step,
        saved=None if point is None else (point.step, point.validated_step),
        saved_at=time.monotonic(),
    )
    together(context, lambda: _write_beginning(run) if context.is_main else None)
    return run


def preview(options: FinetuneOptions, *, context: Distributed) -> tuple[RunPlan, int]:
    """Plan a run without starting it: nothing is downloaded, nothing written.

    Returns:
        The plan, and the bytes of one checkpoint.

    Raises:
        SwaToolsError: The run could not start.
    """
    options = dataclasses.replace(options, pretrained=False, validate_every="never")
    directory = RunDirectory(options.output)
    start = open_start(options, directory=directory, resuming=options.resume, context=context)
    options = _with_start_epoch(options, start.earlier)
    plan = _plan(options, start, _training_loader(options, start, context), context)
    return plan, sum(tensor.nbytes for tensor in start.built.module.state_dict().values())


def _is_resumed(options: FinetuneOptions, directory: RunDirectory) -> bool:
    """Tell whether to go on with the run that is in the directory; runs on rank 0."""
    # torchrun has started this process again after a failure: its run goes on.
    is_restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if options.resume and not directory.exists():
        raise TrainingError(
            f"{directory.path}: there is no run to resume: expected {directory.resume.name} in it"
        )
    if directory.exists() and (options.resume or options.resume_if_exists or is_restart):
        if directory.resume.exists():
            return True
        if any(directory.checkpoints.glob("*.safetensors")) and not options.force:
            raise TrainingError(
                f"{directory.resume}: there is no point to resume from, but there are checkpoints;"
                " --force begins the run again"
            )
        # It was killed before its first step: it begins again.
        return False
    directory.check_free(force=options.force)
    return False


def _with_start_epoch(options: FinetuneOptions, earlier: ResumePoint | None) -> FinetuneOptions:
    """Let an annealing go on where the run before (`--from`) has stopped it."""
    schedule = options.schedule
    if earlier is None or schedule.start_epoch is not None:
        return options
    started = earlier.settings.get("schedule start_steps")
    if started is None or schedule.schedule not in ("anneal", "cosine", "multistep"):
        return options
    done = (started + earlier.step) / earlier.settings["steps per epoch"]
    return dataclasses.replace(options, schedule=dataclasses.replace(schedule, start_epoch=done))


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
        min_area=options.min_crop_area,
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


_SETTINGS = (
    *("model", "model_kwargs", "image_size", "pretrained", "checkpoint", "entry", "from_run"),
    *("new_head", "drop_path", "synthetic_data", "batch_size", "seed", "label_smoothing", "ema"),
    "swa_online",
    "min_crop_area",
    *("optimizer", "momentum", "nesterov", "weight_decay", "no_decay_norm_bias", "clip_grad"),
)
"""The options that a resumed run must have in common with the run before."""


def run_settings(options: FinetuneOptions, plan: RunPlan, start: Start) -> dict[str, Any]:
    """Return what the numbers of a run depend on, by names for the user.

    Its length is not among them: a run may be resumed to go on for longer.
    """
    document = options.to_dict()
    settings = {name.replace("_", " "): document[name] for name in _SETTINGS}
    settings["training images"] = plan.n_images
    settings["names of the training images"] = start.train and start.train.digest()
    settings["steps per epoch"] = plan.steps_per_epoch
    schedule = plan.schedule.to_dict()
    return settings | {f"schedule {name}": value for name, value in schedule.items()}


def _network(
    options: FinetuneOptions, start: Start, context: Distributed
) -> tuple[nn.Module, Stepper, ExponentialAverage | None]:
    """Bring the model to the device, with its optimizer and all state of a resumed run."""
    device, point = context.device, start.point
    amp = amp_dtype(options.amp, device)
    module = start.built.module
    if options.sync_bn:
        if device.type != "cuda" or context.world_size == 1:
            raise TrainingError("--sync-bn needs several processes, each with a CUDA GPU")
        # torch's own does not know timm's layers.
        module = timm.layers.convert_sync_batchnorm(module)  # type: ignore[attr-defined, no-untyped-call]
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    module = module.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    model: Any = torch.compile(module) if options.compile else module
    if context.world_size > 1:
        # Gives the weights of rank 0 to all.
        model = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    ema = None if options.ema is None else ExponentialAverage(module, decay=options.ema)
    optimizer = build_optimizer(module, options.optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    before = point or start.earlier
    if before is not None:
        load_optimizer(optimizer, before.optimizer)
    if point is not None:
        scaler.load_state_dict(point.scaler)
        if ema is not None and point.ema is not None:
            load_into(ema.module, point.ema, where="the moving average")
    stepper = Stepper(
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        amp=amp,
        pieces=options.accumulate,
        label_smoothing=options.label_smoothing,
        clip_grad=options.optimizer.clip_grad,
        seed=options.seed,
        rank=context.rank,
    )
    return module, stepper, ema


def _online(options: FinetuneOptions, point: ResumePoint | None) -> OnlineAverage | None:
    if not options.swa_online:
        if options.keep_checkpoints == 0:
            raise TrainingError(
                "--keep-checkpoints none: nothing would be left of the run; give --swa-online, too"
            )
        return None
    if options.synthetic_data is not None:
        raise TrainingError("--swa-online needs images for BatchNorm; leave --synthetic-data out")
    online = OnlineAverage()
    if point is not None and point.online is not None:
        online.load_state_dict(point.online)
    return online


def _losses(point: ResumePoint | None) -> LossLog:
    if point is None:
        return LossLog(window=[], epoch_loss=0.0)
    return LossLog(window=list(point.window_losses), epoch_loss=point.epoch_loss)


def _write_beginning(run: Run) -> None:
    """Make the run directory, or cut a resumed one back to its resume point; runs on rank 0."""
    directory, start = run.directory, run.start
    if start.point is None:
        directory.create(ema=run.ema is not None)
    else:
        directory.truncate_metrics(start.point.metrics_bytes)
    directory.describe(
        describe_run(run.options, run.plan, info=start.built.info, context=run.context)
    )
    if start.point is None:
        metadata = run.metadata(start.bn, at_start=True)
        save_state_dict(directory.start, run.module.state_dict(), metadata, force=True)
