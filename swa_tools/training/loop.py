"""Fine-tuning: the loop, and what happens between two of its steps."""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Generator

import torch

from swa_tools.data import Batch
from swa_tools.distributed import Distributed, distributed
from swa_tools.errors import OutputError
from swa_tools.records import Record
from swa_tools.training.description import Caller
from swa_tools.training.failures import check_weights, diverged, explain, is_lost_connection
from swa_tools.training.interrupts import StopRequest, agreed_signal, stop_signals
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.preparation import open_run
from swa_tools.training.progress import FinetuneResult, Progress, RunListener
from swa_tools.training.resume import describe_changes, environment
from swa_tools.training.run import Run
from swa_tools.training.saving import clear_away, save, save_capture
from swa_tools.training.validation import NotFiniteError, score_average, validate


def finetune(
    options: FinetuneOptions,
    *,
    context: Distributed | None = None,
    listener: RunListener | None = None,
    caller: Caller | None = None,
) -> FinetuneResult:
    """Fine-tune a model with a learning rate schedule, and save its captures.

    SIGINT, SIGTERM and SIGUSR1 stop the run after a few steps, with a point to resume from.

    Args:
        options: The run.
        context: The ranks that share the run; None for those that torchrun started, or this process
            alone.
        listener: What to call as the run proceeds.
        caller: Who fine-tunes; None for a program that says nothing about itself.

    Raises:
        SwaToolsError: The run cannot start, continue or be resumed; the message says what to do.
    """
    with contextlib.ExitStack() as stack:
        if context is None:
            context = stack.enter_context(distributed(options.device))
        run = open_run(
            options, context=context, listener=listener or RunListener(), caller=caller or Caller()
        )
        stack.enter_context(_fastest_convolutions())
        _announce(run)
        stop = stack.enter_context(stop_signals())
        stopped_by = _train_or_explain(run, stop)
    with run.watch.paused():  # adds the last stretch to the totals
        pass
    return FinetuneResult(
        run=run.directory.path,
        step=run.step,
        n_steps=run.plan.n_steps,
        captures=tuple(run.captures()),
        average=run.average,
        resumed_step=None if run.start.point is None else run.start.point.step,
        stopped_by=stopped_by,
        images_per_second=run.watch.total_images / max(run.watch.total_seconds, 1e-9),
        seconds_saving=run.watch.saving_seconds,
        n_skipped=run.n_skipped,
    )


def _announce(run: Run) -> None:
    run.listener.on_plan(run.plan)
    n_ranks = run.context.world_size
    if n_ranks > 1 and not run.options.sync_bn and run.bn.state != "none":
        remedy = (
            "; --sync-bn normalises over all ranks" if run.context.device.type == "cuda" else ""
        )
        run.listener.on_notice(
            f"BatchNorm normalises the {run.data.batch_size} images of each of the {n_ranks} ranks"
            f" separately, so one process would train a different network{remedy}"
        )
    point, earlier = run.start.point, run.start.earlier
    if earlier is not None and earlier.n_steps is not None and earlier.step < earlier.n_steps:
        run.listener.on_notice(
            f"--from {run.options.from_run}: that run has not ended; its last resume point is after"
            f" step {earlier.step:,} of {earlier.n_steps:,}"
        )
    if point is None:
        return
    run.listener.on_notice(f"resuming {run.directory.path} after step {point.step:,}")
    changes = describe_changes(point.environment, now=environment(run.context, run.options))
    if changes is not None:
        run.listener.on_notice(changes)


@contextlib.contextmanager
def _fastest_convolutions() -> Generator[None]:
    """Let cuDNN choose the fastest algorithms: all batches of a run have the same shape."""
    earlier = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = earlier


def _train_or_explain(run: Run, stop: StopRequest) -> signal.Signals | None:
    """Train; if something goes wrong, say how to continue."""
    try:
        return _train(run, stop)
    except OutputError as error:
        raise OutputError(f"{error}; {run.way_on()}") from error
    except (RuntimeError, ValueError, MemoryError) as error:
        # torchrun ends the ranks one after another.
        if stop.number is not None and is_lost_connection(error):
            return stop.number
        explained = explain(error, run)
        if explained is None:
            raise
        raise explained from error


def _train(run: Run, stop: StopRequest) -> signal.Signals | None:
    """Take the steps that are left; return the signal that stopped them."""
    with run.watch.paused():
        if run.saved is None:
            check_weights(run)
        save(run)
        stopped_by = _score_if_due(run, stop)
    if stopped_by is None:
        with contextlib.closing(_batches(run)) as batches:
            for batch in batches:
                run.step += 1
                _take_step(run, batch)
                if stopped_by := _after_step(run, stop):
                    break
    save(run)
    if stopped_by is None:
        clear_away(run)
    run.n_skipped = _count_skipped(run)
    return stopped_by


def _batches(run: Run) -> Generator[Batch]:
    """Yield the batches from the run's step to its end, epoch after epoch."""
    while run.step < run.plan.n_steps:
        epoch, n_done = divmod(run.step, run.plan.steps_per_epoch)
        batches = run.loaders.train.epoch(run.start.epochs_before + epoch, start_step=n_done)
        while run.step < run.plan.n_steps:
            with run.watch.waiting():
                batch = next(batches, None)
            if batch is None:
                break
            yield batch


def _take_step(run: Run, batch: Batch) -> None:
    loss = run.network.stepper.take(batch.images, batch.targets, step=run.step, lr=run.lr)
    run.losses.add(loss)
    if run.network.ema is not None:
        run.network.ema.update()
    run.watch.count(len(batch.images) * run.context.world_size)


def _after_step(run: Run, stop: StopRequest) -> signal.Signals | None:
    """Do what is due after a step: record, capture, save, validate; return a signal to stop."""
    step, plan = run.step, run.plan
    is_capture = step in plan.captures
    ends_epoch, ends_run = step % plan.steps_per_epoch == 0, step == plan.n_steps
    logs = is_capture or ends_run or step % run.options.log_every == 0
    scores = _is_scored(run)
    # Reading waits for the device, so that a vote counts only steps that are really done.
    if logs or ends_epoch or scores or run.votes.is_due(step) or _reading_is_free(run):
        _read_losses(run)
    stopped_by, is_overdue = run.votes.vote(step, number=stop.number, is_overdue=run.is_overdue())
    is_due = is_capture or ends_run or run.plan.resume_every.includes(step)
    saves = is_due or is_overdue or stopped_by is not None
    if saves:
        _read_losses(run)
        check_weights(run)
    if logs:
        _record(run, Record(event="step", train_loss=run.losses.close_window()))
    if ends_epoch:
        mean = run.losses.close_epoch(plan.steps_per_epoch)
        _record(run, Record(event="epoch", train_loss=mean))
    _report(run, ends_epoch=ends_epoch)
    if not (saves or scores):
        return None
    with run.watch.paused():
        if is_capture:
            save_capture(run)
        if saves:
            # Before the validation, so that the steps are not lost whatever happens in it.
            save(run)
        return stopped_by or _score_if_due(run, stop)


def _is_scored(run: Run) -> bool:
    """Tell whether anything is to be scored after this step."""
    is_regular = run.step == 0 or run.step in run.plan.captures
    is_due = is_regular or run.plan.validate_every.includes(run.step)
    return (is_due and run.loaders.val is not None) or run.is_average_due


def _score_if_due(run: Run, stop: StopRequest) -> signal.Signals | None:
    """Validate, unless already done; return the signal that cut it short."""
    if not _is_scored(run) or run.validated_step == run.step:
        return None
    try:
        records = _scores(run, stop)
    except NotFiniteError as error:
        if not run.options.allow_nonfinite:
            raise diverged(run, str(error), step=run.step) from None
        run.listener.on_notice(f"step {run.step}: {error}; not validated")
        run.validated_step = run.step
        return None
    if number := agreed_signal(stop, run.context):
        return number
    for record in records:
        _record(run, record)
    run.validated_step = run.step
    return None


def _scores(run: Run, stop: StopRequest) -> list[Record]:
    if run.losses.last is not None and not math.isfinite(run.losses.last):
        raise NotFiniteError("the loss is not finite")
    records = validate(run, stop)
    if run.is_average_due and run.online is not None and run.start.train is not None:
        records += score_average(run, run.online, train=run.start.train, stop=stop)
    return records


def _count_skipped(run: Run) -> int:
    """Return how many different images the ranks could not read."""
    skipped = {("train", path) for path in run.loaders.train.skipped}
    if run.loaders.val is not None:
        skipped |= {("val", path) for path in run.loaders.val.skipped}
    return len(set[tuple[str, str]]().union(*run.context.gather(skipped)))


def _reading_is_free(run: Run) -> bool:
    """Tell whether reading a loss costs no waiting."""
    return run.context.world_size == 1 and run.context.device.type == "cpu"


def _read_losses(run: Run) -> None:
    steps_ago = run.losses.collect(run.context)
    if steps_ago is None or run.options.allow_nonfinite:
        return
    step = run.step - steps_ago
    raise diverged(run, "the training loss is not finite", step=step)


def _record(run: Run, record: Record) -> None:
    """Add the moment to a record, write it and tell the listener; only on rank 0."""
    if not run.context.is_main:
        return
    record = dataclasses.replace(
        record,
        epoch=run.plan.epoch(run.step),
        step=run.step,
        cycle=run.plan.schedule.cycle(run.step) if run.step else None,
        lr=run.lr if run.step else None,
    )
    run.directory.append([record])
    run.listener.on_record(record)


def _report(run: Run, *, ends_epoch: bool) -> None:
    rate = run.watch.images_per_second
    progress = Progress(
        step=run.step,
        n_steps=run.plan.n_steps,
        epoch=run.plan.epoch(run.step),
        cycle=run.plan.schedule.cycle(run.step),
        lr=run.lr,
        loss=run.losses.last,
        images_per_second=rate,
        seconds_left=(run.plan.n_steps - run.step) * run.plan.batch_size / rate,
    )
    run.listener.on_progress(progress)
    stall = run.watch.stall() if ends_epoch else None
    if stall is not None:
        run.listener.on_notice(stall)
