"""The pass that replaces running statistics: one forward pass per batch and model."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from swa_tools.batchnorm.options import Estimator
from swa_tools.batchnorm.recorder import Recorder, layers_without_support
from swa_tools.distributed import Distributed, clear_memory_errors
from swa_tools.errors import SwaToolsError
from swa_tools.listening import Advance, unheard


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BnReport:
    """What a recompute did to one model.

    Attributes:
        n_layers: BatchNorm layers that have new statistics.
        n_frozen: BatchNorm layers that were left alone because they are frozen.
        n_samples: Images that the pass saw, on all ranks.
        n_batches: Batches that the pass saw, on all ranks.
        uncalled: Names of the BatchNorm layers that the pass never reached (auxiliary heads in
            evaluation mode); they keep their old statistics.
        unsupported: Names of the layers that keep statistics but are not BatchNorm
            (FrozenBatchNorm2d, EvoNorm, InplaceAbn); they keep their old statistics.
    """

    n_layers: int
    n_frozen: int
    n_samples: int
    n_batches: int
    uncalled: tuple[str, ...]
    unsupported: tuple[str, ...]

    def notices(self) -> list[str]:
        """Return what a user should know in addition to the numbers, one line each."""
        lines = []
        if self.n_layers == 0:
            lines.append("there are no BatchNorm statistics to recompute: the images were not read")
        if self.n_frozen > 0:
            lines.append(f"{self.n_frozen} frozen BatchNorm layers were left as they are")
        for names, what in (
            (self.uncalled, "were not reached by the forward pass"),
            (self.unsupported, "keep statistics but are not BatchNorm"),
        ):
            if names:
                some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
                lines.append(f"{len(names)} layers {what} and were left as they are: {some}")
        return lines


def update_bn(
    model: nn.Module,
    batches: Iterable[torch.Tensor | Sequence[torch.Tensor]],
    *,
    estimator: Estimator = "population",
    train_mode: bool = False,
    amp: torch.dtype | None = None,
    context: Distributed | None = None,
    advance: Advance = unheard,
) -> BnReport:
    """Replace the running statistics of a model with those of the batches.

    This is `update_bn_many` for one model.
    """
    return update_bn_many(
        [model],
        batches,
        estimator=estimator,
        train_mode=train_mode,
        amp=amp,
        context=context,
        advance=advance,
    )[0]


def update_bn_many(
    models: Sequence[nn.Module],
    batches: Iterable[torch.Tensor | Sequence[torch.Tensor]],
    *,
    estimator: Estimator = "population",
    train_mode: bool = False,
    amp: torch.dtype | None = None,
    context: Distributed | None = None,
    advance: Advance = unheard,
) -> list[BnReport]:
    """Replace the running statistics of several models in one pass over the batches.

    BatchNorm layers normalise by the batch, as in train mode. Everything else is in evaluation
    mode: dropout and stochastic depth stay off. Frozen layers stay as they are: those with momentum
    0, and those in evaluation mode inside a model that is in train mode. SyncBatchNorm normalises
    by the rank's own batch here. `num_batches_tracked` becomes the number of calls, as with torch's
    `update_bn`. Modes and hooks are restored afterwards; after an error the statistics are, too. If
    no model has a layer to recompute, the batches are not touched. Sums are kept in float64 (see
    `moments`).

    Args:
        models: Models on one device. If one is compiled, or wrapped for data parallelism, the plain
            module inside is run.
        batches: Images (N, …), or tuples that start with them. Every batch is on one rank only.
        estimator: Which of the three in `estimators`.
        train_mode: Put the whole model into train mode, as the authors' code does.
        amp: dtype of mixed precision; None for full precision.
        context: The processes that share the batches; None for this one alone.
        advance: Called with the number of images after each batch of this rank.

    Raises:
        ModelError: A lazy layer has no size yet.
        SwaToolsError: There are no batches, a batch has one value per channel, statistics are not
            finite, or no forward pass reached a BatchNorm layer.
    """
    recorders = [Recorder(_plain(model), estimator=estimator) for model in models]
    active = [recorder for recorder in recorders if recorder.layers]
    if not active:
        return [_report(recorder, 0, 0) for recorder in recorders]
    context = context or Distributed(device=active[0].device)
    with contextlib.ExitStack() as stack, torch.no_grad():
        for recorder in active:
            stack.enter_context(recorder.attached(train_mode=train_mode))
        seen = _run(active, batches, amp=amp, advance=advance)
        n_samples, n_batches = (sum(counts) for counts in zip(*context.gather(seen), strict=True))
        if n_batches == 0:
            raise SwaToolsError("there are no images to measure BatchNorm statistics on")
        for recorder in active:
            recorder.merge(context)
        for recorder in active:
            recorder.write()
    return [_report(recorder, n_samples, n_batches) for recorder in recorders]


def _run(
    recorders: Sequence[Recorder],
    batches: Iterable[torch.Tensor | Sequence[torch.Tensor]],
    *,
    amp: torch.dtype | None,
    advance: Advance,
) -> tuple[int, int]:
    device = recorders[0].device
    n_samples = n_batches = 0
    for batch in batches:
        images = (batch if isinstance(batch, torch.Tensor) else batch[0]).to(device)
        for recorder in recorders:
            with (
                clear_memory_errors(device),
                # One context per model: autocast keeps copies of the weights until it ends.
                torch.autocast(device.type, dtype=amp, enabled=amp is not None),
            ):
                recorder.forward(images)
        n_samples += len(images)
        n_batches += 1
        advance(len(images))
    return n_samples, n_batches


def _report(recorder: Recorder, n_samples: int, n_batches: int) -> BnReport:
    has_layers = bool(recorder.layers)
    return BnReport(
        n_layers=len(recorder.layers) - len(recorder.uncalled),
        n_frozen=len(recorder.frozen),
        n_samples=n_samples if has_layers else 0,
        n_batches=n_batches if has_layers else 0,
        uncalled=recorder.uncalled,
        unsupported=tuple(layers_without_support(recorder.model)),
    )


def _plain(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile, DataParallel or DistributedDataParallel."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", None)
    return _plain(inner) if isinstance(inner, nn.Module) else model
