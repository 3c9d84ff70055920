"""What a run writes as it proceeds: captures and resume points. Rank 0 writes."""

import time

from swa_tools.checkpoints import BnInfo, content_digest
from swa_tools.models import save_state_dict
from swa_tools.training.resume import ResumePoint, environment, save_resume_point
from swa_tools.training.run import Run

SLOW_SECONDS = 1.0
"""The user is told if a resume point takes longer than this."""


def save_capture(run: Run) -> None:
    """Write the capture of this step, and add it to the averages that the run keeps."""
    if not run.context.is_main:
        return
    path = run.capture_path(run.step)
    save_state_dict(path, run.network.module.state_dict(), run.metadata(run.bn), force=True)
    if run.network.ema is not None:
        metadata = run.metadata(averaged(run.bn))
        save_state_dict(
            run.directory.ema / path.name, run.network.ema.module.state_dict(), metadata, force=True
        )
    if run.online is not None:
        run.online.add(run.network.module.state_dict(), name=path.name, digest=content_digest(path))
    if run.options.keep_checkpoints is not None:
        # The newest stays until the run is over, even if none is to be kept.
        _remove_all_but(max(1, run.options.keep_checkpoints), run)


def clear_away(run: Run) -> None:
    """Remove the last capture of a run that is over, if none was to be kept."""
    if run.options.keep_checkpoints == 0 and run.context.is_main:
        _remove_all_but(0, run)


def _remove_all_but(n_kept: int, run: Run) -> None:
    captures = run.captures()
    for path in captures[: max(0, len(captures) - n_kept)]:
        path.unlink()
        (run.directory.ema / path.name).unlink(missing_ok=True)


def averaged(bn: BnInfo) -> BnInfo:
    """Return the state of running statistics that were averaged with their weights."""
    return bn if bn.state == "none" else BnInfo(state="stale")


def save(run: Run) -> None:
    """Write the point to resume from, unless the newest one is already from this moment."""
    moment = (run.step, run.validated_step)
    if run.saved == moment:
        return
    if run.context.is_main:
        seconds = save_resume_point(run.directory.resume, _point(run))
        run.watch.saving_seconds += seconds
        if seconds > SLOW_SECONDS:
            run.listener.on_notice(f"step {run.step}: the resume point took {seconds:.1f} s")
    run.saved = moment
    run.saved_at = time.monotonic()


def _point(run: Run) -> ResumePoint:
    return ResumePoint(
        step=run.step,
        settings=run.settings,
        environment=environment(run.context, run.options),
        model=run.network.module.state_dict(),
        optimizer=run.network.stepper.optimizer.state_dict(),
        scaler=run.network.stepper.scaler.state_dict(),
        ema=None if run.network.ema is None else run.network.ema.module.state_dict(),
        online=None if run.online is None else run.online.state_dict(),
        validated_step=run.validated_step,
        metrics_bytes=run.directory.sync_metrics(),
        window_losses=run.losses.window,
        epoch_loss=run.losses.epoch_loss,
        n_steps=run.plan.n_steps,
    )
