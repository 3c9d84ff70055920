"""Loss and error at any point of weight space, always on the same images."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swa_tools.batchnorm import conditions_of, update_bn
from swa_tools.data import (
    Batch,
    ImageSet,
    Loader,
    evaluation_loader,
    map_to_outputs,
    statistics_loader,
    subset,
)
from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.errors import DataError, SwaToolsError
from swa_tools.evaluation import evaluate
from swa_tools.landscape.options import SurfaceOptions
from swa_tools.landscape.points import PointScore
from swa_tools.listening import Advance, unheard
from swa_tools.models import has_batchnorm, load_checkpoint

BYTES_PER_NUMBER = 4
"""Memory that one number of an image takes."""


class Surface:
    """Train loss and test error as functions of the weights of one network.

    At every point BatchNorm statistics are recomputed as in `update-bn --samples`, then the
    training and the validation images are scored as in `evaluate`.

    Args:
        checkpoint: One of the model's files.
        train, val: Images, their classes not mapped yet.
        options: How points are scored.
        device: Where the network runs.

    Attributes:
        n_images: Number of images that go through the network for each point.
        has_batchnorm: Whether the network keeps running statistics.
        is_cached: Whether the images stay in memory.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        train: ImageSet,
        val: ImageSet,
        options: SurfaceOptions,
        device: torch.device,
    ) -> None:
        built, metadata = load_checkpoint(checkpoint, options)
        self._options, self._amp = options, amp_dtype(options.amp, device)
        self._module = built.on(device, channels_last=options.channels_last).module
        self._info, self._preprocessing = built.info, built.preprocessing
        self.has_batchnorm = has_batchnorm(self._module)
        self._conditions = conditions_of(options, metadata, built.preprocessing)
        mapped, seed = map_to_outputs(train, built.info), self._conditions.seed
        self._images = {
            "train": subset(mapped, options.train_samples, seed=seed),
            "val": subset(map_to_outputs(val, built.info), options.val_samples, seed=seed),
        }
        self._n_all = {"train": len(train), "val": len(val)}
        if self.has_batchnorm and options.bn_samples:
            self._images["bn"] = subset(mapped, options.bn_samples, seed=seed)
        self.n_images = sum(len(images) for images in self._images.values())
        wanted = options.cache_images
        self.is_cached = self._fits(device) if wanted is None else wanted
        self._loaders = {
            name: Held(self._loader(name, device), hold=self.is_cached) for name in self._images
        }

    def score(
        self,
        tensors: Iterable[tuple[str, np.ndarray]],
        *,
        decayed: Collection[str],
        allow_overflow: bool,
        advance: Advance = unheard,
    ) -> PointScore:
        """Return the scores of a point.

        Args:
            tensors: All tensors of its state dict.
            decayed: Names of those that count in the L2 term.
            allow_overflow: Whether NaN or Inf from the network gives a point without a value
                instead of an error.
            advance: Called with the number of images after each batch.

        Raises:
            DataError: An image cannot be read.
            SwaToolsError: The network gives NaN or Inf and `allow_overflow` is not set.
        """
        options = self._options
        l2 = options.l2 / 2 * self._load(tensors, decayed)
        try:
            if "bn" in self._loaders:
                update_bn(self._module, self._loaders["bn"], amp=self._amp, advance=advance)
            scores = {
                name: evaluate(
                    {"point": self._module}, self._loaders[name], amp=self._amp, advance=advance
                )
                for name in ("train", "val")
            }
        except DataError:
            raise
        except SwaToolsError:
            if not allow_overflow:
                raise
            return self._overflow(l2)
        train, val = scores["train"].scores["point"], scores["val"].scores["point"]
        return PointScore(
            train_loss=train.nll,
            l2=l2,
            train_error=100 - train.top1,
            test_loss=val.nll,
            test_error=100 - val.top1,
            is_correct=scores["val"].is_correct("point"),
        )

    def describe(self) -> dict[str, Any]:
        """Return everything that scores depend on except the point, as JSON values."""
        options = self._options
        return {
            "model": dataclasses.asdict(self._info),
            "preprocessing": dataclasses.asdict(self._preprocessing),
            "images": {
                name: {"n_samples": len(images), "digest": images.digest()}
                for name, images in self._images.items()
            },
            "images_in_all": self._n_all,
            "has_batchnorm": self.has_batchnorm,
            "bn_samples": options.bn_samples,
            "view": dataclasses.asdict(self._conditions.view),
            "seed": self._conditions.seed,
            "weight_decay": options.l2,
            "no_decay_norm_bias": options.no_decay_norm_bias,
            "batch_size": self._conditions.batch_size,
            "amp": None if self._amp is None else str(self._amp).removeprefix("torch."),
            "skip_bad_images": options.skip_bad_images,
        }

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know about the recompute, one line each."""
        return self._conditions.notices if "bn" in self._images else ()

    @property
    def n_skipped(self) -> int:
        """Number of unreadable images that were left out."""
        return len({path for held in self._loaders.values() for path in held.loader.skipped})

    def _load(self, tensors: Iterable[tuple[str, np.ndarray]], decayed: Collection[str]) -> float:
        """Put a point into the network; return the squared norm of its decayed parameters."""
        state = self._module.state_dict()
        squares = []
        for name, array in tensors:
            target = state[name]
            if name in decayed:
                squares.append(float(np.vdot(array, array).real))
            # Cast before the transfer: not every device has float64.
            target.copy_(torch.from_numpy(np.asarray(array, order="C")).to(target.dtype))
        return math.fsum(squares)

    def _overflow(self, l2: float) -> PointScore:
        nothing = math.nan
        return PointScore(
            train_loss=nothing,
            l2=l2,
            train_error=nothing,
            test_loss=nothing,
            test_error=nothing,
            is_correct=np.zeros(len(self._images["val"]), np.bool_),
        )

    def _loader(self, name: str, device: torch.device) -> Loader:
        images, conditions = self._images[name], self._conditions
        how: dict[str, Any] = {
            "options": dataclasses.replace(self._options, batch_size=conditions.batch_size),
            "context": Distributed(device=device),
        }
        if name != "bn":
            return evaluation_loader(images, self._preprocessing, **how)
        seed, view = conditions.seed, conditions.view
        return statistics_loader(images, self._preprocessing, seed=seed, view=view, **how)

    def _fits(self, device: torch.device) -> bool:
        n_bytes = self.n_images * 3 * self._preprocessing.image_size**2 * BYTES_PER_NUMBER
        n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        free = free_bytes(device) // (1 if device.type == "cuda" else n_processes)
        return n_bytes <= free // 2


class Held:
    """The batches of a loader, kept from the first pass on if wanted.

    Args:
        loader: Where the batches come from.
        hold: Whether to keep them, on the device where the loader puts them.
    """

    def __init__(self, loader: Loader, *, hold: bool) -> None:
        self.loader = loader
        self._hold = hold
        self._batches: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._batches is not None:
            yield from self._batches
            return
        kept = []
        for batch in self.loader:
            if self._hold:
                kept.append(batch)
            yield batch
        if self._hold:
            self._batches = kept


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free where images would be kept, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    # macOS tells only the total: half of that may be free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
