"""From positions in an image set to batches on the device.

Images travel as uint8 and are normalised on the device.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from swa_tools.checkpoints import Preprocessing
from swa_tools.data.images import ImageSet
from swa_tools.data.options import PassOptions
from swa_tools.data.views import Normaliser
from swa_tools.data.workers import Decoder, DecodingPool, Task, View, default_workers
from swa_tools.distributed import Distributed
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
    """Loads any batches of one image set.

    Args:
        images: The set.
        view: Turns an image into the pixels of the input.
        preprocessing: Supplies mean and std.
        options: How images are loaded; the batch size does not matter here.
        context: Supplies the device that batches go to.
        n_batches: The most processes that are of use.

    Attributes:
        skipped: Paths of the images left out so far, each once.
    """

    def __init__(
        self,
        images: ImageSet,
        view: View,
        preprocessing: Preprocessing,
        *,
        options: PassOptions,
        context: Distributed,
        n_batches: int,
    ) -> None:
        device = context.device
        workers = default_workers(device) if options.workers is None else options.workers
        self.skipped: list[str] = []
        self._images = images
        self._targets = torch.tensor(images.targets, dtype=torch.int64)
        self._device = device
        self._skip_bad_images = options.skip_bad_images
        self._normalise = Normaliser(
            preprocessing,
            image_size=view.image_size,
            device=device,
            channels_last=options.channels_last,
        )
        self._pool = DecodingPool(
            Decoder(images.open, view),
            workers=min(workers, n_batches),
            pin_memory=device.type == "cuda",
        )

    def run(self, batches: Sequence[np.ndarray], *, epoch: int) -> Iterator[Batch]:
        """Yield the batches of the images at these positions, in order, without the bad images.

        Raises:
            DataError: An image cannot be read, or a worker process has died.
        """
        paths = self._images.paths
        tasks = (Task(epoch, indices, tuple(paths[i] for i in indices)) for indices in batches)
        decoded = self._pool.decode(tasks)
        try:
            for pixels, indices, bad in decoded:
                for path, reason in bad:
                    self._note(path, reason)
                targets = self._targets[indices]
                yield Batch(
                    images=self._normalise(pixels.to(self._device, non_blocking=True)),
                    targets=targets.to(self._device, non_blocking=True),
                    indices=indices,
                )
        except DataError:
            # Otherwise the workers live as long as the traceback, and Python's garbage collector,
            # which then has to end them, waits five seconds for each.
            decoded.close()
            self._pool.close()
            raise

    def _note(self, path: str, reason: str) -> None:
        if not self._skip_bad_images:
            raise DataError(
                f"{self._images.root / path}: cannot read this image ({reason});"
                " --skip-bad-images continues without it"
            )
        if path not in self.skipped:
            self.skipped.append(path)
