"""The recompute over a set of images: what every command that averages calls."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
import xxhash
from torch import nn

from swa_tools.batchnorm.estimators import Estimator
from swa_tools.batchnorm.update import BnReport, update_bn_many
from swa_tools.checkpoints.metadata import BnInfo, Preprocessing
from swa_tools.data import Batch, ImageSet, Loader, statistics_loader, subset
from swa_tools.distributed import Distributed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BnOptions:
    """How statistics are measured on a set of images.

    Attributes:
        estimator: `population`, `batch-mean` or `sample-weighted`.
        n_samples: Images of a random, class-balanced subset; None for all images.
        augment: Whether images are augmented as in training, or prepared as in evaluation.
        train_mode: Whether the whole model is in train mode, dropout and all.
        batch_size: Images in a batch; a batch is on one rank.
        seed: Of the subset, the order and the augmentation.
        workers: Processes that decode images; None to choose by the machine.
        skip_bad_images: Whether unreadable images are left out instead of being an error.
        amp: dtype of mixed precision; None for full precision.
        channels_last: Whether images are laid out channels last, for models that are.
    """

    estimator: Estimator = "population"
    n_samples: int | None = None
    augment: bool = False
    train_mode: bool = False
    batch_size: int = 256
    seed: int = 0
    workers: int | None = None
    skip_bad_images: bool = False
    amp: torch.dtype | None = None
    channels_last: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recomputation:
    """What a recompute did.

    Attributes:
        reports: Of each model.
        bn: What belongs into the metadata of the models.
        n_skipped: Unreadable images that were left out.
    """

    reports: tuple[BnReport, ...]
    bn: BnInfo
    n_skipped: int


def recompute(
    models: Sequence[nn.Module],
    images: ImageSet,
    *,
    preprocessing: Preprocessing,
    options: BnOptions,
    context: Distributed,
    on_batch: Callable[[int], None] | None = None,
) -> Recomputation:
    """Recompute the statistics of models in one pass over images, in place.

    Args:
        models: At least one, on the device of the context.
        images: Training images; `options.n_samples` of them are used.
        preprocessing: How an image becomes the input of all these models.
        options: How the statistics are measured.
        context: The processes that share the work.
        on_batch: Called with the number of images after each batch of this rank.

    Raises:
        SwaToolsError: As `update_bn_many`; no model has changed then.
        DataError: An image cannot be read.
    """
    if options.n_samples is not None:
        images = subset(images, options.n_samples, seed=options.seed)
    loader = statistics_loader(
        images,
        preprocessing,
        batch_size=options.batch_size,
        device=context.device,
        seed=options.seed,
        augment=options.augment,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
        rank=context.rank,
        world_size=context.world_size,
        channels_last=options.channels_last,
    )
    reports = update_bn_many(
        models,
        _seeded(loader, options=options, context=context) if options.train_mode else loader,
        estimator=options.estimator,
        train_mode=options.train_mode,
        amp=options.amp,
        context=context,
        on_batch=on_batch,
    )
    bn = BnInfo(
        state="updated",
        estimator=options.estimator,
        n_samples=max(report.n_samples for report in reports),
        batch_size=options.batch_size,
        augment=options.augment,
        train_mode=options.train_mode,
        seed=options.seed,
        data_digest=images.digest(),
    )
    return Recomputation(
        reports=tuple(reports),
        bn=bn if any(report.n_layers for report in reports) else BnInfo(state="none"),
        n_skipped=sum(context.gather(len(loader.skipped))),
    )


def _seeded(loader: Loader, *, options: BnOptions, context: Distributed) -> Iterator[Batch]:
    """Yield the batches; dropout draws from (seed, number of the batch), whatever the rank."""
    device = context.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for number, batch in enumerate(loader):
            place = f"{options.seed}/{context.rank + number * context.world_size}"
            torch.manual_seed(xxhash.xxh3_64_intdigest(place.encode()) >> 1)
            yield batch
