"""The batches of a run: of its images, or random ones, to measure how fast training is alone."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from swa_tools.checkpoints import Preprocessing
from swa_tools.data import Batch, Loader, evaluation_loader, training_loader
from swa_tools.distributed import Distributed
from swa_tools.errors import TrainingError
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.start import Start, training_view_of


class EpochLoader(Protocol):
    """Training batches by epoch, real ones or synthetic ones."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    @property
    def skipped(self) -> list[str]:
        """Paths of the bad images left out so far."""

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of the batches of an epoch, from `start_step` on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """Where the batches of a run come from.

    Attributes:
        train: Batches to train on.
        val: Batches to validate on; None where nothing is validated.
    """

    train: EpochLoader
    val: Loader | None


def open_loaders(options: FinetuneOptions, start: Start, context: Distributed) -> Loaders:
    """Return the loaders of this rank; no image is opened yet.

    Raises:
        SwaToolsError: The ranks cannot share the batches evenly.
    """
    if options.batch_size % context.world_size:
        raise TrainingError(
            f"--batch-size {options.batch_size}: {context.world_size} processes cannot share it"
            " evenly; start as many as divide it (a resumed run keeps its --batch-size), or give"
            " another"
        )
    return Loaders(
        train=_training_loader(options, start, context),
        val=_validation_loader(options, start, context),
    )


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
        view=training_view_of(options, preprocessing),
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


class SyntheticLoader:
    """Stands in for a training loader: the same random batch, as often as it is asked for.

    Args:
        n_images: Size of the set that is pretended.
        preprocessing: Tells the size of the images.
        num_classes: Targets are drawn from so many outputs.
        batch_size: Over all ranks; each takes its share.
        device: Where the images are.
        seed: Of the images.
        rank, world_size: This process among all.
        channels_last: Whether the images lie in memory as (N, H, W, 3).

    Raises:
        TrainingError: The ranks cannot share the batch evenly.
    """

    def __init__(
        self,
        n_images: int,
        preprocessing: Preprocessing,
        *,
        num_classes: int,
        batch_size: int,
        device: torch.device,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        channels_last: bool = False,
    ) -> None:
        if batch_size % world_size:
            raise TrainingError(f"a batch of {batch_size} images does not divide by {world_size}")
        self.steps_per_epoch = max(1, n_images // batch_size)
        self.skipped: list[str] = []
        random = torch.Generator().manual_seed(seed + rank)
        share, size = batch_size // world_size, preprocessing.image_size
        images = torch.randn((share, 3, size, size), generator=random)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._batch = Batch(
            images=images.to(device, memory_format=layout),
            targets=torch.randint(num_classes, (share,), generator=random).to(device),
            indices=torch.arange(share) * world_size + rank,
        )

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:  # noqa: ARG002 - All alike.
        """Yield the batches of an epoch from `start_step` on."""
        for _ in range(start_step, self.steps_per_epoch):
            yield self._batch
