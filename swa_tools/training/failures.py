"""What stops a run, in one line: divergence, too little memory, lost processes."""

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from swa_tools.errors import OtherRankError, SwaToolsError, TrainingError

if TYPE_CHECKING:
    from swa_tools.training.run import Run

_OF_A_CONNECTION = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")
"""Text in gloo's errors, which are plain RuntimeErrors."""


def diverged(run: "Run", what: str, *, step: int) -> SwaToolsError:
    """Return the error of a run whose numbers are not finite; rank 0 shows it.

    Args:
        run: The run.
        what: A clause that says what is not finite.
        step: The step at which it was noticed.
    """
    error = TrainingError if run.context.is_main else OtherRankError
    if step == 0:
        return error(
            f"{run.directory.start}: at the start {what}; begin with other weights, or continue"
            " regardless with --allow-nonfinite"
        )
    good = [path for path in run.captures() if path != run.capture_path(step)]
    return error(
        f"step {step} (epoch {run.plan.epoch(step):.2f}, learning rate"
        f" {run.plan.schedule.lr(step):g}): {what}; the last good checkpoint is"
        f" {good[-1] if good else run.directory.start}; try a lower --lr-max or --clip-grad 1, or"
        " continue regardless with --allow-nonfinite"
    )


@torch.no_grad()
def are_finite(tensors: list[torch.Tensor]) -> bool:
    """Tell whether all tensors are free of NaN, Inf and numbers whose squares overflow."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return bool(nn.utils.get_total_norm(floats).isfinite())


def check_weights(run: "Run") -> None:
    """Stop a run whose weights have diverged, before they are saved; all ranks must call this.

    Raises:
        SwaToolsError: They have diverged, and `allow_nonfinite` is not set.
    """
    if run.options.allow_nonfinite:
        return
    tensors = list(run.network.module.state_dict().values()) if run.context.is_main else []
    if not run.context.broadcast(are_finite(tensors)):
        raise diverged(run, "the weights are not finite", step=run.step)


def explain(error: Exception, run: "Run") -> SwaToolsError | None:
    """Return a one-line error for what a step raised; None if it is a bug in this program."""
    plan, context = run.plan, run.context
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if _is_out_of_memory(error):
        return TrainingError(
            f"step {run.step}: out of memory on {context.device} with {plan.piece_size} images"
            f" at once; try --accumulate {2 * plan.accumulate}, --amp bf16 or a smaller"
            f" --batch-size ({run.way_on()})"
        )
    if isinstance(error, ValueError) and reason.startswith("Expected more than 1 value per chan"):
        return TrainingError(
            f"step {run.step}: BatchNorm needs more than one value per channel, found one with"
            f" {plan.piece_size} images at once; try a larger --batch-size, a smaller --accumulate,"
            " fewer processes or a larger --image-size"
        )
    if context.world_size == 1 or not isinstance(error, RuntimeError):
        return None
    if is_lost_connection(error):
        # One rank is enough to report it; the rank that failed first reports its own error.
        lost = TrainingError if context.is_main else OtherRankError
        return lost(
            f"rank {context.rank}: lost the other processes in step {run.step} ({reason});"
            " look for the first error above this one"
        )
    return TrainingError(f"rank {context.rank}, step {run.step}: {reason} ({run.way_on()})")


def is_lost_connection(error: Exception) -> bool:
    """Tell whether an error comes from communication with another process."""
    is_distributed = isinstance(error, dist.DistError)  # from NCCL and from the store
    return is_distributed or any(words in str(error) for words in _OF_A_CONNECTION)


@contextlib.contextmanager
def enough_memory(device: torch.device) -> Generator[None]:
    """Turn the error of too little memory while a run is set up into one line.

    Raises:
        TrainingError: There is too little memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory on {device} for the model and its optimizer, before the first image;"
            " try another --device, leave out --ema, or end other programs that use its memory"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The first is the CPU's, the second NCCL's and cuBLAS's.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    )
