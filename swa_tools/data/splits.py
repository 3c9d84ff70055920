"""The images of a split, in whatever form they are stored."""

from pathlib import Path

from swa_tools.data.images import SPLIT_FOLDERS, ImageSet, open_images, subfolders
from swa_tools.data.options import ImageSource, Split
from swa_tools.data.shards import open_shards
from swa_tools.data.timm_datasets import open_dataset
from swa_tools.errors import DataError

NAMED = 3
"""How many of the folders it found an error message names."""


def open_split(split: Split, source: ImageSource) -> ImageSet:
    """Find the images of a split; no image is opened, and no class is mapped to a model yet.

    Args:
        split: `train`, or `val`, which may be called `validation` on the disk.
        source: Where the images of both splits lie.

    Raises:
        DataError: The source names no images of the split, or they cannot be read.
    """
    dataset, data = source.dataset, source.data
    if dataset:
        if data is None or source.directory(split) is not None:
            raise DataError(
                f"--dataset {dataset} says what to read and --data DIR where it lies: give both,"
                f" and no --{split}-dir"
            )
        if dataset.partition("/")[0] == "wds":
            return open_shards(data, split=split)
        return open_dataset(dataset, split=split, root=data)
    path = find_split(split, source)
    if path.suffix == ".tar" and path.is_file():
        return open_dataset("", split=split, root=path)
    return open_images(path)


def has_split(split: Split, source: ImageSource) -> bool:
    """Tell whether the source names images of a split at all; see `open_split`.

    A named data set (`dataset`) is assumed to have every split.
    """
    if source.dataset or source.directory(split) is not None:
        return True
    data, names = source.data, SPLIT_FOLDERS[split]
    return data is not None and any(
        (data / name).is_dir() or (data / f"{name}.tar").is_file() for name in names
    )


def find_split(split: Split, source: ImageSource) -> Path:
    """Return the folder or the tar file of a split.

    Raises:
        DataError: Neither `data` nor the split's own folder is given, or `data` has no such split.
    """
    data, directory = source.data, source.directory(split)
    if directory is not None:
        return directory
    names = SPLIT_FOLDERS[split]
    if data is None:
        raise DataError(
            f"no folder of {split} images: give --data DIR with {names[0]}/ in it, or --{split}-dir"
        )
    for name in names:
        if (data / name).is_dir():
            return data / name
    for name in names:
        if (data / f"{name}.tar").is_file():
            return data / f"{name}.tar"
    found = ", ".join(f"{name}/" for name in subfolders(data)[:NAMED])
    raise DataError(
        f"{data}: expected a folder {' or '.join(f'{name}/' for name in names)} in it, found"
        f" {found or 'no folders'}; --{split}-dir names the folder itself"
    )
