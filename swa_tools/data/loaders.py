"""Loaders: batches of images on the device, dealt to ranks.

Images travel as uint8 and are normalised on the device. Which images make up a batch, and how they
are augmented, depends on the seed and the global batch size alone.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from swa_tools.checkpoints import Preprocessing
from swa_tools.data.images import ImageSet
from swa_tools.data.random_numbers import permutation
from swa_tools.data.views import EvaluationView, TrainingView, normalise
from swa_tools.data.workers import Decoder, DecodingPool, Task, View, default_workers
from swa_tools.errors import DataError


class Batch(NamedTuple):
    """Some images and their labels.

    Attributes:
        images: float32 `(N, 3, H, W)`, normalised, on the device.
        targets: int64 `(N,)`, on the device.
        indices: int64 `(N,)`, positions in the image set, on the CPU.
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor


class Pipeline:
    """From positions in an image set to batches on the device.

    Args:
        images: The set.
        view: What is made of each image.
        preprocessing: Has mean and std.
        device: Where batches go.
        workers: Processes that decode; None for `default_workers`, 0 for none.
        skip_bad_images: Whether an unreadable image is left out instead of being an error.
        channels_last: The memory format of the batches.

    Attributes:
        skipped: Paths of the images left out so far, each once.
    """

    def __init__(
        self,
        images: ImageSet,
        view: View,
        *,
        preprocessing: Preprocessing,
        device: torch.device,
        workers: int | None,
        skip_bad_images: bool,
        channels_last: bool,
    ) -> None:
        self.skipped: list[str] = []
        self._images = images
        self._targets = torch.tensor(images.targets, dtype=torch.int64)
        self._device = device
        self._skip = skip_bad_images
        self._normalise = functools.partial(
            normalise, preprocessing=preprocessing, channels_last=channels_last
        )
        self._pool = DecodingPool(
            Decoder(images.open, view),
            workers=default_workers(device) if workers is None else workers,
            pin_memory=device.type == "cuda",
        )

    def run(self, batches: Iterator[np.ndarray], *, epoch: int) -> Iterator[Batch]:
        """Yield the batches with these positions, in order; one without a good image is left out.

        Raises:
            DataError: An image cannot be read, or a worker process has died.
        """
        paths = self._images.paths
        tasks = (Task(epoch, indices, tuple(paths[i] for i in indices)) for indices in batches)
        for pixels, indices, bad in self._pool.decode(tasks):
            for path, reason in bad:
                self._note(path, reason)
            if len(indices) == 0:
                continue
            on_device = pixels.to(self._device, non_blocking=True)
            targets = self._targets[indices]
            yield Batch(
                images=self._normalise(on_device),
                targets=targets.to(self._device, non_blocking=True),
                indices=indices,
            )

    def _note(self, path: str, reason: str) -> None:
        if not self._skip:
            raise DataError(
                f"{self._images.root / path}: cannot read this image ({reason});"
                " --skip-bad-images goes on without it"
            )
        if path not in self.skipped:
            self.skipped.append(path)


class Loader:
    """Every image of a rank's share once; can be iterated again and gives the same.

    Args:
        pipeline: What loads them.
        batches: Positions of the images of each batch of this rank.

    Attributes:
        n_samples: Images in this rank's batches, bad ones included.
    """

    def __init__(self, pipeline: Pipeline, batches: Sequence[np.ndarray]) -> None:
        self._pipeline = pipeline
        self._batches = batches
        self.n_samples = sum(len(batch) for batch in batches)

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self._pipeline.run(iter(self._batches), epoch=0)

    @property
    def skipped(self) -> list[str]:
        """Paths of the bad images left out so far."""
        return self._pipeline.skipped


class TrainingLoader:
    """Shuffled, augmented batches, epoch by epoch.

    Args:
        pipeline: What loads them.
        batches_of: Positions of the images of this rank's batches, by epoch.
        steps_per_epoch: Their number.

    Attributes:
        steps_per_epoch: Batches in an epoch.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        batches_of: Callable[[int], Sequence[np.ndarray]],
        *,
        steps_per_epoch: int,
    ) -> None:
        self._pipeline = pipeline
        self._batches_of = batches_of
        self.steps_per_epoch = steps_per_epoch

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of each global batch of an epoch.

        Args:
            epoch: From 0; decides order and augmentation.
            start_step: Batches of the epoch to leave out, for a run that is resumed.

        Raises:
            DataError: An image cannot be read, no image of a batch can, or a worker process has
                died.
        """
        batches = self._batches_of(epoch)[start_step:]
        n_found = 0
        for batch in self._pipeline.run(iter(batches), epoch=epoch):
            n_found += 1
            yield batch
        if n_found < len(batches):
            raise DataError(
                f"epoch {epoch}: {len(batches) - n_found} of {len(batches)} batches had no readable"
                f" image; the first bad one is {self.skipped[0]}"
            )

    @property
    def skipped(self) -> list[str]:
        """Paths of the bad images left out so far."""
        return self._pipeline.skipped
