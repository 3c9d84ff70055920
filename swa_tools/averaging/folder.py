"""An average as a model folder, as Hugging Face and timm read it, written by one rank or many.

The folder holds `model.safetensors`, or shards and their index, and the model's `config.json`.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from swa_tools.averaging.describe import with_digests
from swa_tools.averaging.kernel import Hashes, digests_of, run_average
from swa_tools.averaging.plan import AveragePlan, TensorPlan
from swa_tools.checkpoints import Checkpoint, CheckpointMetadata, SafetensorsWriter, file_metadata
from swa_tools.checkpoints.folder_output import (
    CONFIG_FILE,
    check_folder_output,
    clear_errors,
    held,
    publish,
    temporary_folder,
)
from swa_tools.checkpoints.header import tensor_bytes
from swa_tools.checkpoints.sharded import (
    INDEX_FILE,
    WEIGHTS_FILE,
    Layout,
    build_index,
    split_into_shards,
)
from swa_tools.ranks import Ranks, gathered, on_first, together

if TYPE_CHECKING:
    from swa_tools.averaging.average import AverageOptions


def model_config(source: Checkpoint, metadata: CheckpointMetadata) -> bytes | None:
    """Return the `config.json` for an average; None if nothing is known of its model.

    It is that of the source where the source is such a folder itself; for a model of timm's it is
    made from the metadata.
    """
    config = source.files[0].parent / CONFIG_FILE
    if source.path.is_dir() and config.is_file():
        return config.read_bytes()
    model, preprocessing = metadata.model, metadata.preprocessing
    if model is None or preprocessing is None or not model.name.startswith("timm/"):
        return None
    size = preprocessing.image_size
    pretrained = {
        "input_size": [3, size, size],
        "interpolation": preprocessing.interpolation,
        "crop_pct": size / preprocessing.resize,
        "crop_mode": preprocessing.crop,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "num_classes": model.num_classes,
    }
    document = {
        "architecture": model.name.removeprefix("timm/").partition(".")[0],
        "num_classes": model.num_classes,
        "model_args": model.kwargs,
        "pretrained_cfg": pretrained,
    }
    if model.classes is not None:
        document["label_names"] = list(model.classes)
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def write_folder(
    plan: AveragePlan,
    folder: Path,
    metadata: CheckpointMetadata,
    *,
    config: bytes | None,
    options: "AverageOptions",
    ranks: Ranks,
) -> tuple[Path, CheckpointMetadata, str]:
    """Run a plan into a model folder, which appears when all ranks are done, or not at all.

    Each rank averages whole shards. Tensors stay on their rank; only their hashes are exchanged.

    Args:
        plan: The same on every rank.
        folder: The output, on a disk that all ranks share.
        metadata: From `describe_average`.
        config: The content of `config.json`; None for no such file.
        options: How to average.
        ranks: The processes that share the work.

    Returns:
        The file by which the output is opened, its metadata, and the digest of its tensors.

    Raises:
        SwaToolsError: As `average_checkpoints`.
    """
    layout = plan.layout
    shards = split_into_shards(layout, options.max_shard_size)
    entry = WEIGHTS_FILE if WEIGHTS_FILE in shards else INDEX_FILE
    files = {} if config is None else {CONFIG_FILE: config}
    if entry == INDEX_FILE:
        files[INDEX_FILE] = build_index(shards, layout)
    with _shared_folder(folder, ranks, has_config=config is not None, force=options.force) as made:
        mine = deal(shards, layout, ranks.world_size)[ranks.rank]
        share = _Shards(plan, metadata, {file: shards[file] for file in mine}, made, folder)
        parts = gathered(ranks, lambda: share.average(options))
        digests = digests_of(plan, {name: sums for part in parts for name, sums in part.items()})
        sources = _whole_digests(plan, ranks) if plan.leaves_out else digests.sources
        metadata = with_digests(metadata, sources)
        together(ranks, lambda: share.finish(metadata))
        on_first(ranks, lambda: publish(made, folder, files, force=options.force))
    return folder / entry, metadata, digests.output


def deal(shards: Mapping[str, Sequence[str]], layout: Layout, n_ranks: int) -> list[list[str]]:
    """Deal the names of shards to ranks, the largest first, each to the rank with least bytes."""
    sizes = {
        file: sum(tensor_bytes(*layout[name]) for name in names) for file, names in shards.items()
    }
    dealt: list[list[str]] = [[] for _ in range(n_ranks)]
    totals = [0] * n_ranks
    for file in sorted(sizes, key=lambda file: (-sizes[file], file)):
        rank = totals.index(min(totals))
        dealt[rank].append(file)
        totals[rank] += sizes[file]
    return dealt


@contextlib.contextmanager
def _shared_folder(folder: Path, ranks: Ranks, *, has_config: bool, force: bool) -> Iterator[Path]:
    """Make a temporary folder on rank 0, for all ranks.

    Rank 0 alone removes it: another rank that fails cannot know whether rank 0 goes on.
    """
    with contextlib.ExitStack() as stack:

        def make() -> Path:
            check_folder_output(folder, has_config=has_config, force=force)
            return stack.enter_context(temporary_folder(folder))

        temporary = on_first(ranks, make)
        together(ranks, lambda: stack.enter_context(held(temporary)))
        yield temporary


def _whole_digests(plan: AveragePlan, ranks: Ranks) -> tuple[str, ...]:
    """Return the digests of all tensors of each source; each rank reads some of the sources."""

    def read() -> dict[int, str]:
        mine = range(ranks.rank, len(plan.checkpoints), ranks.world_size)
        return {i: plan.checkpoints[i].digest() for i in mine}

    found = {i: digest for part in gathered(ranks, read) for i, digest in part.items()}
    return tuple(found[i] for i in range(len(plan.checkpoints)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Shards:
    """The shards that one rank writes.

    Attributes:
        plan: The whole plan.
        metadata: What goes into every header, its digests not known yet.
        tensors: The names of the tensors of each file.
        temporary: Where the files are written.
        folder: Where they will be, for errors.
    """

    plan: AveragePlan
    metadata: CheckpointMetadata
    tensors: Mapping[str, Sequence[str]]
    temporary: Path
    folder: Path

    def average(self, options: "AverageOptions") -> Hashes:
        """Average the tensors of one file after the other."""
        hashes: Hashes = {}
        with clear_errors(self.folder):
            for file in self.tensors:
                with open(self.temporary / file, "xb") as opened:
                    hashes |= self._average_one(file, opened, options)
        return hashes

    def _average_one(self, file: str, opened: BinaryIO, options: "AverageOptions") -> Hashes:
        writer, _ = self._writer(file, opened)
        names = set(self.tensors[file])

        def write(tensor: TensorPlan, offset: int, data: memoryview) -> None:
            writer.write(tensor.name, offset, data)

        return run_average(
            dataclasses.replace(
                self.plan, tensors=tuple(one for one in self.plan.tensors if one.name in names)
            ),
            write,
            allow_nonfinite=options.allow_nonfinite,
            advance=options.advance,
            n_threads=options.n_threads,
        )

    def finish(self, metadata: CheckpointMetadata) -> None:
        """Replace the metadata, and see that everything is on the disk."""
        with clear_errors(self.folder):
            for file in self.tensors:
                with open(self.temporary / file, "rb+") as opened:
                    writer, ties = self._writer(file, opened)
                    writer.replace_metadata(file_metadata(metadata, ties))
                    os.fsync(opened.fileno())

    def _writer(self, file: str, opened: BinaryIO) -> tuple[SafetensorsWriter, dict[str, str]]:
        """Write a header; return the writer of the rest, and the ties that are in the header."""
        names = set(self.tensors[file])
        layout = {name: place for name, place in self.plan.layout.items() if name in names}
        ties = {name: target for name, target in self.plan.ties.items() if target in names}
        return SafetensorsWriter(opened, layout, file_metadata(self.metadata, ties)), ties
