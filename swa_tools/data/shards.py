"""Images in WebDataset shards: tar files of `KEY.jpg` and `KEY.cls` side by side.

Shards on a disk can be read in any order once their headers have been read. So they are indexed,
not streamed: batches, subsets and resuming work as with folders.
"""

import dataclasses
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from swa_tools.data.images import EXTENSIONS, SPLIT_FOLDERS, ImageSet
from swa_tools.errors import DataError

LABEL_SUFFIX = ".cls"
"""Suffix of the member that holds a sample's class index, in decimal digits."""

PLACE = re.compile(r"#(\d+)\+(\d+)$")
"""The end of an image's path: its offset in the shard and its length, both in bytes."""


class _Sample(NamedTuple):
    path: str
    target: int


def open_shards(root: Path, *, split: Literal["train", "val"]) -> ImageSet:
    """Index the shards of a split; no image is opened.

    Shards are `root/SPLIT/*.tar`, or the files `root/*.tar` whose names have the split's name as a
    word (`imagenet1k-train-0000.tar`). As in WebDataset, members whose names agree up to the first
    dot are one sample: its image, and its class index in a `.cls` member. Classes are named by
    their indices.

    Args:
        root: The folder of the shards.
        split: `train` or `val`.

    Raises:
        DataError: There are no shards of the split, one cannot be read, or a sample has no label.
    """
    shards = _find_shards(root, split)
    samples = [sample for shard in shards for sample in _read_index(root, shard)]
    if not samples:
        raise DataError(f"{shards[0]}: no image in this shard or any other of the {split} images")
    n_classes = max(sample.target for sample in samples) + 1
    return ImageSet(
        root=root,
        paths=tuple(sample.path for sample in samples),
        targets=tuple(sample.target for sample in samples),
        classes=tuple(map(str, range(n_classes))),
        outputs=tuple(range(n_classes)),
        open=_ShardOpener(root),
    )


def _find_shards(root: Path, split: str) -> list[Path]:
    names = SPLIT_FOLDERS[split]
    inside = sorted(path for name in names for path in root.glob(f"{name}/*.tar"))
    beside = sorted(
        path for path in root.glob("*.tar") if set(names) & set(re.split(r"[^a-z]+", path.stem))
    )
    if not (inside or beside):
        raise DataError(
            f"{root}: no shards of the {split} images: expected {names[0]}/*.tar, or *.tar with"
            f" {' or '.join(names)} as a word in the name; copy shards that lie elsewhere here"
        )
    return inside or beside


def _read_index(root: Path, shard: Path) -> Iterator[_Sample]:
    """Yield the samples of a shard, in its order."""
    where = shard.relative_to(root)
    try:
        with tarfile.open(shard, "r:") as tar:
            images: dict[str, str] = {}
            targets: dict[str, int] = {}
            for member in tar:
                key, suffix = _parts(member.name)
                if suffix in EXTENSIONS and member.isfile():
                    images[key] = f"{where}/{member.name}#{member.offset_data}+{member.size}"
                elif suffix == LABEL_SUFFIX:
                    targets[key] = _read_label(tar, member, shard)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard}: cannot read this shard: {error}") from error
    for key, path in images.items():
        if key not in targets:
            raise DataError(
                f"{shard}: {key} has an image but no label; expected a member {key}{LABEL_SUFFIX}"
            )
        yield _Sample(path, targets[key])


def _parts(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its last part, as WebDataset does."""
    folder, slash, last = name.rpartition("/")
    key, dot, suffix = last.partition(".")
    return folder + slash + key, (dot + suffix).lower()


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    file = tar.extractfile(member)
    text = b"" if file is None else file.read()
    if not text.strip().isdigit():
        raise DataError(
            f"{shard}: {member.name}: expected a class index in digits, found {text[:20]!r}"
        )
    return int(text)


@dataclasses.dataclass(frozen=True, slots=True)
class _ShardOpener:
    """Opens images by the paths that `open_shards` makes, which end in offset and length."""

    root: Path

    def __call__(self, path: str) -> Image.Image:
        place = PLACE.search(path)
        if place is None:
            raise ValueError(f"{path}: not the path of an image in a shard")
        start, size = map(int, place.groups())
        name, separator, _ = path.partition(".tar/")
        with open(self.root / (name + separator.rstrip("/")), "rb") as file:
            file.seek(start)
            return Image.open(io.BytesIO(file.read(size)))
