"""Recompute BatchNorm statistics over a set of images: called by every command that averages."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import xxhash
from torch import nn

from swa_tools.batchnorm.conditions import Conditions, conditions_of
from swa_tools.batchnorm.options import BnOptions
from swa_tools.batchnorm.update import BnReport, update_bn_many
from swa_tools.checkpoints.metadata import BnInfo, Preprocessing
from swa_tools.data import Batch, ImageSet, statistics_loader, subset
from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.listening import Advance, unheard


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recomputation:
    """What a recompute did.

    Attributes:
        reports: One report for each model.
        bn: What belongs in the models' metadata.
        conditions: What the statistics were measured on.
        n_skipped: Unreadable images that were left out.
    """

    reports: tuple[BnReport, ...]
    bn: BnInfo
    conditions: Conditions
    n_skipped: int

    def notices(self) -> list[str]:
        """Return what a user should know in addition to the numbers, one line each."""
        lines = [] if self.bn.state == "none" else list(self.conditions.notices)
        return list(dict.fromkeys(lines + [one for r in self.reports for one in r.notices()]))


def recompute(
    models: Sequence[nn.Module],
    images: ImageSet,
    *,
    preprocessing: Preprocessing,
    options: BnOptions,
    conditions: Conditions | None = None,
    context: Distributed,
    advance: Advance = unheard,
    is_stopped: Callable[[], bool] | None = None,
) -> Recomputation:
    """Recompute the statistics of models in one pass over images, in place.

    Args:
        models: At least one, on the device of the context.
        images: Training images; `options.n_samples` of them are used.
        preprocessing: How an image becomes the input of all these models.
        options: How the statistics are measured.
        conditions: What they are measured on, from `conditions_of`; None if nothing is known about
            the weights.
        context: The processes that share the work.
        advance: Called with the number of images after each batch of this rank.
        is_stopped: Called after each batch; if it says so, this rank's other batches are left out,
            and the statistics are of no use.

    Raises:
        SwaToolsError: As from `update_bn_many`; no model has changed then.
        DataError: An image cannot be read.
    """
    conditions = conditions or conditions_of(options, None, preprocessing)
    if options.n_samples is not None:
        images = subset(images, options.n_samples, seed=conditions.seed)
    loader = statistics_loader(
        images,
        preprocessing,
        seed=conditions.seed,
        view=conditions.view,
        options=dataclasses.replace(options, batch_size=conditions.batch_size),
        context=context,
    )
    batches: Iterable[Batch] = loader
    if is_stopped is not None:
        batches = until(is_stopped, batches)
    if options.train_mode:
        batches = _seeded(batches, seed=conditions.seed, context=context)
    reports = update_bn_many(
        models,
        batches,
        estimator=options.estimator,
        train_mode=options.train_mode,
        amp=amp_dtype(options.amp, context.device),
        context=context,
        advance=advance,
    )
    bn = BnInfo(
        state="updated",
        estimator=options.estimator,
        n_samples=max(report.n_samples for report in reports),
        batch_size=conditions.batch_size,
        view=conditions.view,
        train_mode=options.train_mode,
        seed=conditions.seed,
        data_digest=images.digest(),
    )
    return Recomputation(
        reports=tuple(reports),
        bn=bn if any(report.n_layers for report in reports) else BnInfo(state="none"),
        conditions=conditions,
        n_skipped=sum(context.gather(len(loader.skipped))),
    )


def until(is_stopped: Callable[[], bool], batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches until stopped, but always the first: no rank may be without one."""
    for batch in batches:
        yield batch
        if is_stopped():
            return


def _seeded(batches: Iterable[Batch], *, seed: int, context: Distributed) -> Iterator[Batch]:
    """Yield the batches; dropout draws from (seed, number of the batch) on every rank."""
    device = context.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for number, batch in enumerate(batches):
            place = f"{seed}/{context.rank + number * context.world_size}"
            torch.manual_seed(xxhash.xxh3_64_intdigest(place.encode()) >> 1)
            yield batch
