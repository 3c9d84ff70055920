"""Sets of labelled images: found in folders, named, chosen from."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from swa_tools.data.random_numbers import SUBSET, generator
from swa_tools.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation")}

NAMED = 3
"""How many folders an error message names; the rest it only counts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Labelled images in a fixed order.

    Attributes:
        root: The folder that they come from.
        paths: Where each image lies below `root`; messages call it by this name.
        targets: The model's output that stands for each image's class.
        classes: Names of the classes: their folders, sorted.
        outputs: The target of each class; 0, 1, 2, … until `map_to_outputs` changes it.
        open: Opens the image at a path without decoding it; works in another process, too.
    """

    root: Path
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    classes: tuple[str, ...]
    outputs: tuple[int, ...]
    open: Callable[[str], Image.Image]

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self) -> str:
        """Return a digest of the paths, in their order: `xxh3-128:…`."""
        names = "\0".join(self.paths).encode("utf-8", "surrogateescape")
        return f"xxh3-128:{xxhash.xxh3_128_hexdigest(names)}"


def open_images(directory: Path) -> ImageSet:
    """Find the images of a folder that has one folder per class; no image is opened.

    Folders within a class belong to it. Hidden files and folders are left out.

    Raises:
        DataError: The folder is missing or cannot be read, it has no class folders, or a class
            has no images.
    """
    classes = subfolders(directory)
    if not classes:
        raise DataError(f"{directory}: expected one folder of images per class, found no folders")
    by_class = [_images_below(directory, name) for name in classes]
    empty = [repr(name) for name, paths in zip(classes, by_class, strict=True) if not paths]
    if empty:
        raise DataError(
            f"{directory}: no image in the class folder {_first(empty)} (looked for"
            f" {' '.join(EXTENSIONS)}); remove it, or name the folder above the classes"
        )
    return ImageSet(
        root=directory,
        paths=tuple(path for paths in by_class for path in paths),
        targets=tuple(index for index, paths in enumerate(by_class) for _ in paths),
        classes=tuple(classes),
        outputs=tuple(range(len(classes))),
        open=functools.partial(_open_file, directory),
    )


def subset(images: ImageSet, n_samples: int, *, seed: int) -> ImageSet:
    """Choose images at random, the same number of each class as far as possible.

    Classes differ by at most one image, except those that have too few. The order stays.

    Args:
        images: What to choose from.
        n_samples: How many to choose; all if the set has no more.
        seed: Seed of the choice.

    Raises:
        DataError: `n_samples` is below 1.
    """
    if n_samples < 1:
        raise DataError(f"{images.root}: cannot choose {n_samples} images; expected at least 1")
    random = generator(seed, SUBSET).random(len(images))
    targets = np.asarray(images.targets)
    # An image's turn: its place in the random order of its class. All classes' first turns are
    # taken, then all second turns, …; the last round, which may not be whole, is itself random.
    order = np.lexsort((random, targets))
    grouped = targets[order]
    turns = np.empty(len(images), dtype=np.int64)
    turns[order] = np.arange(len(images)) - np.searchsorted(grouped, grouped)
    chosen = np.sort(np.lexsort((random, turns))[:n_samples])
    return take(images, chosen)


def hold_out(images: ImageSet, n_samples: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Choose images as `subset` does; return these and the rest.

    Raises:
        DataError: `n_samples` is below 1, or nothing would be left.
    """
    held_out = subset(images, n_samples, seed=seed)
    chosen = set(held_out.paths)
    rest = np.array([i for i, path in enumerate(images.paths) if path not in chosen], dtype=int)
    if len(rest) == 0:
        raise DataError(
            f"{images.root}: cannot hold out {n_samples} of {len(images)} images: none would be"
            " left"
        )
    return held_out, take(images, rest)


def take(images: ImageSet, positions: np.ndarray) -> ImageSet:
    """Return the images at these positions, in this order; classes and outputs stay."""
    return dataclasses.replace(
        images,
        paths=tuple(images.paths[i] for i in positions),
        targets=tuple(images.targets[i] for i in positions),
    )


def subfolders(directory: Path) -> list[str]:
    """Return the names of a folder's subfolders, sorted; hidden ones are left out.

    Raises:
        DataError: The folder cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."
            )
    except OSError as error:
        raise DataError(f"{directory}: cannot read this folder: {error.strerror}") from error


def _open_file(root: Path, path: str) -> Image.Image:
    return Image.open(os.path.join(root, path))


def _images_below(directory: Path, class_name: str) -> list[str]:
    """Return the sorted paths of a class's images, relative to the directory above the class."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot read this folder: {error.strerror}") from error

    found = []
    top = os.path.join(directory, class_name)
    for folder, subfolders, files in os.walk(top, onerror=fail, followlinks=True):
        subfolders[:] = [name for name in subfolders if name[0] != "."]
        relative = os.path.relpath(folder, directory)
        found += [
            os.path.join(relative, name)
            for name in files
            if name[0] != "." and name.lower().endswith(EXTENSIONS)
        ]
    return sorted(found)


def _first(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
