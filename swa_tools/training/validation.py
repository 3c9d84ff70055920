"""Scores during a run: of the current weights, and of the average of the captures."""

import copy
import dataclasses
from pathlib import Path

import torch
from torch import nn

from swa_tools.batchnorm import BnOptions, conditions_of, recompute
from swa_tools.batchnorm.recomputation import until
from swa_tools.checkpoints import BnInfo, content_digest
from swa_tools.data import Batch, ImageSet
from swa_tools.distributed import Distributed
from swa_tools.errors import TrainingError
from swa_tools.evaluation import Predictor, Score, score_predictors
from swa_tools.evaluation.one_pass import module_predictor
from swa_tools.models import load_into, save_state_dict
from swa_tools.records import Record
from swa_tools.training.averages import OnlineAverage
from swa_tools.training.failures import are_finite
from swa_tools.training.interrupts import StopRequest, agreed_signal
from swa_tools.training.run import Run
from swa_tools.training.saving import averaged


class NotFiniteError(TrainingError):
    """A score would be NaN; raised on every rank. The message is a clause that says why."""


def validate(run: Run, stop: StopRequest) -> list[Record]:
    """Score the weights, and their moving average; every rank takes its share of the images.

    A signal cuts it short; the records are then useless.

    Returns:
        One record for each, without the moment of training.

    Raises:
        NotFiniteError: A rank's logits contain NaN or Inf.
    """
    models: dict[str, nn.Module] = {"checkpoint": run.network.module}
    if run.network.ema is not None and run.step > 0:
        models["ema"] = run.network.ema.module
    for module in models.values():
        _share_buffers(module, run.context)
    scores = _scores(run, models, stop)
    return [_record_of_weights(run, kind, score) for kind, score in scores.items()]


def score_average(
    run: Run, online: OnlineAverage, *, train: ImageSet, stop: StopRequest
) -> list[Record]:
    """Recompute the BatchNorm statistics of the captures' average, save it and score it.

    A signal cuts it short; nothing is saved then.

    Args:
        run: The run, at a capture.
        online: The run's average; rank 0 has its numbers.
        train: Images to measure the statistics on.
        stop: Where a signal is noted.

    Raises:
        NotFiniteError: The average or a rank's logits contain NaN or Inf.
    """
    context, path = run.context, run.directory.average
    module = copy.deepcopy(run.network.module)
    weights = context.broadcast(online.weights())
    if not are_finite(list(weights.values())):
        raise NotFiniteError("the average of the captures is not finite")
    load_into(module, weights, where=str(path))
    bn = _recompute_bn(run, module, train, stop)
    if agreed_signal(stop, context) is not None:
        return []
    scores = _scores(run, {"average": module}, stop)
    if agreed_signal(stop, context) is not None:
        return []
    if context.is_main:
        metadata = dataclasses.replace(
            run.metadata(bn, at_start=True), kind="average", average=online.info()
        )
        save_state_dict(path, module.state_dict(), metadata, force=True)
    return [_record(run, kind, score, bn=bn, path=path) for kind, score in scores.items()]


def _scores(run: Run, models: dict[str, nn.Module], stop: StopRequest) -> dict[str, Score]:
    if run.loaders.val is None:
        return {}
    is_broken = torch.zeros((), dtype=torch.bool, device=run.context.device)
    predictors = {
        name: _predictor(module, run.network.stepper.amp, is_broken)
        for name, module in models.items()
    }
    batches = until(lambda: stop.number is not None, run.loaders.val)
    scores = score_predictors(predictors, batches, context=run.context).scores
    if any(run.context.gather(bool(is_broken))):
        raise NotFiniteError("the logits of the validation are not finite")
    return scores


def _predictor(module: nn.Module, amp: torch.dtype | None, is_broken: torch.Tensor) -> Predictor:
    """Return a predictor that notes logits with NaN or Inf and replaces them with zeros.

    An error would be raised on one rank only, and the other ranks would wait for it.
    """
    predict = module_predictor(module, amp=amp)

    def watched(batch: Batch) -> torch.Tensor:
        logits = predict(batch)
        is_bad = ~logits.amax(dim=1, keepdim=True).isfinite()
        is_broken.logical_or_(is_bad.any())
        return logits.masked_fill(is_bad, 0)

    return watched


def _recompute_bn(run: Run, module: nn.Module, train: ImageSet, stop: StopRequest) -> BnInfo:
    """Measure the statistics as `update-bn` does by default."""
    if run.bn.state == "none":
        return run.bn
    preprocessing = run.start.built.preprocessing
    options = BnOptions.as_in(run.options)
    return recompute(
        [module],
        train,
        preprocessing=preprocessing,
        options=options,
        conditions=conditions_of(options, run.metadata(run.bn), preprocessing),
        context=run.context,
        is_stopped=lambda: stop.number is not None,
    ).bn


@torch.no_grad()
def _share_buffers(module: nn.Module, context: Distributed) -> None:
    """Give every rank the running statistics of rank 0, which are the ones that are saved."""
    if context.world_size == 1:
        return
    buffers = dict(module.named_buffers())
    told = context.broadcast({name: buffer.cpu() for name, buffer in buffers.items()})
    for name, buffer in buffers.items():
        buffer.copy_(told[name])


def _record_of_weights(run: Run, kind: str, score: Score) -> Record:
    if run.step == 0:
        return _record(run, "start", score, bn=run.start.bn, path=run.directory.start)
    path = run.capture_path(run.step) if run.step in run.plan.captures else None
    if kind == "ema":
        path = None if path is None else run.directory.ema / path.name
        return _record(run, kind, score, bn=averaged(run.bn), path=path)
    return _record(run, kind, score, bn=run.bn, path=path)


def _record(run: Run, kind: str, score: Score, *, bn: BnInfo, path: Path | None) -> Record:
    about = Record(
        event="evaluation",
        checkpoint=None if path is None else path.name,
        digest=None if path is None or not run.context.is_main else content_digest(path),
        kind=kind,
        bn=bn.state,
        split="val",
    )
    return score.record(about)
