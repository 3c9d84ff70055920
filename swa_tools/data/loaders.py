"""Which images make up a batch, and which batches go to which rank.

Both depend only on the seed and the global batch size, and so does the augmentation.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from swa_tools.checkpoints import Preprocessing, ViewInfo
from swa_tools.data.images import ImageSet
from swa_tools.data.options import PassOptions
from swa_tools.data.pipeline import Batch, Pipeline
from swa_tools.data.random_numbers import permutation
from swa_tools.data.views import EvaluationView, TrainingView, training_view
from swa_tools.data.workers import View
from swa_tools.distributed import Distributed, single_process
from swa_tools.errors import DataError


class Loader:
    """Every image of a rank's share once; iterating again gives the same batches.

    Args:
        pipeline: What loads the images.
        batches: Positions of the images in each batch of this rank.

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
        """Load the batches; leave out one whose images are all bad."""
        for batch in self._pipeline.run(self._batches, epoch=0):
            if len(batch.indices) > 0:
                yield batch

    @property
    def skipped(self) -> list[str]:
        """Paths of the bad images left out so far."""
        return self._pipeline.skipped


class TrainingLoader:
    """Shuffled, augmented batches, epoch by epoch.

    Args:
        pipeline: What loads the images.
        batches_of: Gives the positions of the images in this rank's batches of an epoch.
        steps_per_epoch: Number of batches in an epoch.

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
            start_step: How many batches of the epoch to leave out, for a resumed run.

        Raises:
            DataError: An image cannot be read, no image of a batch can, or a worker process has
                died.
        """
        batches = self._batches_of(epoch)[start_step:]
        for batch in self._pipeline.run(batches, epoch=epoch):
            if len(batch.indices) == 0:
                raise DataError(
                    f"epoch {epoch}: a batch has no readable image, the last one tried is"
                    f" {self.skipped[-1]}; {len(self.skipped)} bad images so far"
                )
            yield batch

    @property
    def skipped(self) -> list[str]:
        """Paths of the bad images left out so far."""
        return self._pipeline.skipped


def evaluation_loader(
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    options: PassOptions | None = None,
    context: Distributed | None = None,
) -> Loader:
    """Load every image once, in order, exactly as the model's library prepares it.

    Batch b goes to rank b mod `world_size`; nothing is padded, and the last batch may be smaller.

    Args:
        images: What to load.
        preprocessing: The model's.
        options: How to load; None for the defaults.
        context: The processes that share the batches; None for this one alone.

    Raises:
        DataError: The batch size is below 1.
    """
    options, context = _how(options, context)
    batches = _split(np.arange(len(images)), options.images_per_batch)
    view = EvaluationView(preprocessing=preprocessing)
    return _loader(images, preprocessing, view, batches, options=options, context=context)


def statistics_loader(
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    seed: int,
    view: ViewInfo,
    options: PassOptions | None = None,
    context: Distributed | None = None,
) -> Loader:
    """Load every image once, in random order, for the statistics of BatchNorm.

    The batches are fixed by (seed, batch size); a last batch of one image joins the one before.
    Batch b goes to rank b mod `world_size`.

    Args:
        images: What to load.
        preprocessing: The model's.
        seed: Seed of the order and the augmentation.
        view: How an image is prepared: `training_view` or `evaluation_view` of the preprocessing,
            or the view in a checkpoint's metadata.
        options: How to load; None for the defaults.
        context: The processes that share the batches; None for this one alone.

    Raises:
        DataError: The batch size is below 1.
    """
    options, context = _how(options, context)
    batches = _split(permutation(len(images), seed), options.images_per_batch)
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    prepared: View = TrainingView(info=view, seed=seed)
    if view.crop == "evaluation":
        prepared = EvaluationView(preprocessing=preprocessing)
    return _loader(images, preprocessing, prepared, batches, options=options, context=context)


def training_loader(
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    seed: int,
    view: ViewInfo | None = None,
    options: PassOptions | None = None,
    context: Distributed | None = None,
) -> TrainingLoader:
    """Load shuffled and augmented images, epoch by epoch.

    Order and augmentation are drawn from (seed, epoch, image), so the global batches are the same
    on any number of ranks and workers. The last batch of an epoch is left out if it is not whole; a
    set smaller than a batch is one batch.

    Args:
        images: What to load.
        preprocessing: The model's; its mean and std are used.
        seed: Seed of the order and the augmentation.
        view: How an image is prepared; None for `training_view(preprocessing)`.
        options: How to load, the batch size counting all ranks together; None for the defaults.
        context: The processes that share each batch; None for this one alone.

    Raises:
        DataError: The batch size is below 1 or not a multiple of `world_size`, or there are fewer
            images than processes.
    """
    options, context = _how(options, context)
    batch_size, world_size = options.images_per_batch, context.world_size
    if batch_size < 1 or batch_size % world_size:
        raise DataError(
            f"the batch size is {batch_size}, expected a positive multiple of {world_size}, the"
            " number of processes that share it"
        )
    if len(images) < world_size:
        raise DataError(
            f"{images.root}: {len(images)} images for {world_size} processes; start fewer"
        )
    share = min(batch_size, len(images)) // world_size
    steps_per_epoch = max(1, len(images) // batch_size)

    def batches_of(epoch: int) -> list[np.ndarray]:
        order, first = permutation(len(images), seed, epoch=epoch), context.rank * share
        firsts = range(first, steps_per_epoch * share * world_size, share * world_size)
        return [order[first : first + share] for first in firsts]

    prepared = TrainingView(info=view or training_view(preprocessing), seed=seed)
    pipeline = Pipeline(
        images, prepared, preprocessing, options=options, context=context, n_batches=steps_per_epoch
    )
    return TrainingLoader(pipeline, batches_of, steps_per_epoch=steps_per_epoch)


def _how(
    options: PassOptions | None, context: Distributed | None
) -> tuple[PassOptions, Distributed]:
    options = options or PassOptions()
    return options, context or single_process(options.device)


def _loader(
    images: ImageSet,
    preprocessing: Preprocessing,
    view: View,
    batches: list[np.ndarray],
    *,
    options: PassOptions,
    context: Distributed,
) -> Loader:
    """Return the loader of this rank's share of the batches."""
    batches = batches[context.rank :: context.world_size]
    pipeline = Pipeline(
        images, view, preprocessing, options=options, context=context, n_batches=len(batches)
    )
    return Loader(pipeline, batches)


def _split(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    if batch_size < 1:
        raise DataError(f"the batch size is {batch_size}, expected at least 1")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
