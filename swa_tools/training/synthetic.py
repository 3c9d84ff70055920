"""Random images on the device, to measure how fast training is without its data."""

from collections.abc import Iterator

import torch

from swa_tools.checkpoints import Preprocessing
from swa_tools.data import Batch
from swa_tools.errors import TrainingError


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
