"""The batches of a run: from its images, or random ones to measure the speed of training alone."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import torch

from swa_tools.checkpoints import Preprocessing
from swa_tools.data import Batch, Loader, evaluation_loader, training_loader
from swa_tools.distributed import Distributed
from swa_tools.errors import TrainingError
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.start import Start, training_view_of


class EpochLoader(Protocol):
    """Training batches by epoch, real or synthetic."""

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
        val: Batches to validate on; None if nothing is validated.
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
            " evenly; start a number of processes that divides it, or change it (a resumed run"
            " keeps its --batch-size)"
        )
    return Loaders(
        train=_training_loader(options, start, context),
        val=_validation_loader(options, start, context),
    )


def _training_loader(options: FinetuneOptions, start: Start, context: Distributed) -> EpochLoader:
    preprocessing = start.built.preprocessing
    if start.train is None:
        num_classes = start.built.info.num_classes
        return SyntheticLoader(preprocessing, num_classes, options=options, context=context)
    view = training_view_of(options, preprocessing)
    return training_loader(
        start.train, preprocessing, seed=options.seed, view=view, options=options, context=context
    )


def _validation_loader(
    options: FinetuneOptions, start: Start, context: Distributed
) -> Loader | None:
    if start.val is None:
        return None
    share = max(1, options.batch_size // context.world_size)
    options = dataclasses.replace(options, batch_size=share)
    return evaluation_loader(start.val, start.built.preprocessing, options=options, context=context)


class SyntheticLoader:
    """Stands in for a training loader: the same random batch at every step.

    Args:
        preprocessing: Gives the size of the images.
        num_classes: Number of outputs that targets are drawn from.
        options: The number of pretended images, and the batch size over all ranks.
        context: The ranks, each of which takes its share.

    Raises:
        TrainingError: The ranks cannot share the batch evenly.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        num_classes: int,
        *,
        options: FinetuneOptions,
        context: Distributed,
    ) -> None:
        batch_size, world_size = options.batch_size, context.world_size
        if batch_size % world_size:
            raise TrainingError(
                f"--batch-size {batch_size}: {world_size} processes cannot share it evenly; start a"
                " number of processes that divides it"
            )
        self.steps_per_epoch = max(1, (options.synthetic_data or 0) // batch_size)
        self.skipped: list[str] = []
        random = torch.Generator().manual_seed(options.seed + context.rank)
        share, size = batch_size // world_size, preprocessing.image_size
        images = torch.randn((share, 3, size, size), generator=random)
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self._batch = Batch(
            images=images.to(context.device, memory_format=layout),
            targets=torch.randint(num_classes, (share,), generator=random).to(context.device),
            indices=torch.arange(share) * world_size + context.rank,
        )

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:  # noqa: ARG002 - All epochs are the same.
        """Yield the batches of an epoch from `start_step` on."""
        for _ in range(start_step, self.steps_per_epoch):
            yield self._batch
