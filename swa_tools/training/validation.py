"""Scores of the weights as they are, on the way."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from swa_tools.checkpoints import content_digest
from swa_tools.data import Batch
from swa_tools.distributed import Distributed
from swa_tools.evaluation import Score, evaluate
from swa_tools.records import Record
from swa_tools.training.interrupts import StopRequest
from swa_tools.training.run import Run
from swa_tools.training.saving import averaged


def validate(run: Run, stop: StopRequest) -> list[Record]:
    """Score the weights, and their moving average; every rank takes its share of the images.

    A signal cuts it short: the records are then of no use.

    Returns:
        One record for each, without the moment.
    """
    models: dict[str, nn.Module] = {"checkpoint": run.module}
    if run.ema is not None and run.step > 0:
        models["ema"] = run.ema.module
    for module in models.values():
        _share_buffers(module, run.context)
    evaluation = evaluate(
        models, _until(stop, run.val or ()), context=run.context, amp=run.stepper.amp
    )
    return [_scored(run, kind, score) for kind, score in evaluation.scores.items()]


def _until(stop: StopRequest, batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        if stop.number is not None:
            return


@torch.no_grad()
def _share_buffers(module: nn.Module, context: Distributed) -> None:
    """Give every rank the running statistics of rank 0, which are those that are saved."""
    if context.world_size == 1:
        return
    buffers = dict(module.named_buffers())
    told = context.broadcast({name: buffer.cpu() for name, buffer in buffers.items()})
    for name, buffer in buffers.items():
        buffer.copy_(told[name])


def _scored(run: Run, kind: str, score: Score) -> Record:
    bn = run.bn
    path = None
    if run.step == 0:
        kind, bn, path = "start", run.start.bn, run.directory.start
    elif run.step in run.plan.captures:
        path = run.capture_path(run.step)
    if kind == "ema":
        bn = averaged(bn)
        path = None if path is None else run.directory.ema / path.name
    return Record(
        event="evaluation",
        checkpoint=None if path is None else path.name,
        digest=None if path is None or not run.context.is_main else content_digest(path),
        kind=kind,
        bn=bn.state,
        split="val",
        n_samples=score.n_samples,
        top1=score.top1,
        top5=score.top5,
        nll=score.nll,
        ece=score.ece,
    )
