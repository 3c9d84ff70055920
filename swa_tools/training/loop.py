"""Fine-tuning: the loop, and what happens between two of its steps."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from swa_tools import __version__
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, TrainingInfo, content_digest
from swa_tools.data import Batch
from swa_tools.distributed import Distributed, distributed
from swa_tools.errors import OutputError, TrainingError
from swa_tools.evaluation import evaluate
from swa_tools.models import has_batchnorm, save_state_dict
from swa_tools.records import Record
from swa_tools.training.interrupts import StopRequest, stop_signals
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.progress import Listener, Progress
from swa_tools.training.resume import ResumePoint, save_resume_point
from swa_tools.training.run import Run, open_run
from swa_tools.training.run_directory import capture_name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """How a run ended.

    Attributes:
        run: The run directory.
        step, n_steps: Optimizer steps done and planned.
        captures: The checkpoints taken, also before the run was resumed.
        resumed_step: The step that this process resumed at; None if it began the run.
        stopped_by: The signal that stopped the run; None if it is complete.
        images_per_second: Of training, pauses left out.
        seconds_saving: Spent on resume points.
    """

    run: Path
    step: int
    n_steps: int
    captures: tuple[Path, ...]
    resumed_step: int | None
    stopped_by: signal.Signals | None
    images_per_second: float
    seconds_saving: float


def finetune(
    options: FinetuneOptions,
    *,
    context: Distributed | None = None,
    listener: Listener | None = None,
) -> FinetuneResult:
    """Fine-tune a model with a learning rate schedule, and save its captures.

    SIGINT, SIGTERM and SIGUSR1 stop the run after a few steps, with a point to resume from.

    Args:
        options: The run.
        context: The ranks that share it; None: those that torchrun started, or this process.
        listener: What to call as the run proceeds.

    Raises:
        SwaToolsError: The run cannot start, go on, or be resumed; the message says what to do.
    """
    with contextlib.ExitStack() as stack:
        if context is None:
            context = stack.enter_context(distributed(options.device))
        run = open_run(options, context=context, listener=listener or Listener())
        stop = stack.enter_context(stop_signals())
        stopped_by = _train_or_explain(run, stop)
        return run.result(stopped_by)
