"""Average checkpoint files into a file or a model folder."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from swa_tools.averaging.describe import describe_average, with_digests
from swa_tools.averaging.folder import model_config, write_folder
from swa_tools.averaging.kernel import digests_of, run_average
from swa_tools.averaging.plan import AveragePlan, TensorPlan, plan_average
from swa_tools.averaging.rules import TensorRules
from swa_tools.averaging.weighting import Uniform, Weighting
from swa_tools.checkpoints import (
    Checkpoint,
    CheckpointMetadata,
    SafetensorsWriter,
    atomic_output,
    check_weights_output,
    file_metadata,
    open_checkpoint,
    weights_output,
)
from swa_tools.checkpoints.folder_output import CONFIG_FILE, check_folder_output, weights_in
from swa_tools.checkpoints.metadata import Kind
from swa_tools.checkpoints.remote import RemotePath, as_path, in_parallel
from swa_tools.checkpoints.sharded import WEIGHTS_FILE, parse_size
from swa_tools.errors import CheckpointError, OutputError
from swa_tools.listening import Advance, unheard
from swa_tools.options import option
from swa_tools.ranks import ALONE, Ranks, together


@dataclasses.dataclass(frozen=True, slots=True)
class AverageResult:
    """What was written.

    Attributes:
        path: The output: the file, or the file in the folder by which it is opened.
        digest: Content digest of its tensors.
        metadata: The output's metadata.
        n_averaged, n_copied: How many tensors were averaged, and how many copied.
        bytes_read: Size of all sources together.
    """

    path: Path
    digest: str
    metadata: CheckpointMetadata
    n_averaged: int
    n_copied: int
    bytes_read: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AverageOptions:
    """How to average.

    Attributes:
        weighting: How much each checkpoint counts.
        include_init: Whether the first checkpoint is the starting point ŵ, for the metadata.
        max_shard_size: The most bytes that the tensors of one file take, in a folder.
        rules: Which tensors to leave out or to take from the last checkpoint.
        entry: Which weights to take from pickled files that hold several.
        force: Whether an existing output may be replaced.
        n_threads: How many threads work; by default one per core, up to 8.
        advance: Called with the number of bytes read since its last call, for progress.
    """

    weighting: Weighting = dataclasses.field(default_factory=Uniform)
    include_init: bool = option(
        False, help="Count the run's starting point once, too.", section="Which checkpoints"
    )
    max_shard_size: int | None = option(
        None,
        help="Write a folder x/ with shards of at most this size and their index.",
        section="How",
        metavar="SIZE",
        parse=parse_size,
    )
    dtype: str | None = option(
        None, help="Write this dtype: F32, BF16, F16, …", section="How", metavar="DTYPE"
    )
    allow_nonfinite: bool = option(False, help="Let NaN and Inf pass.", section="How")
    keep_names: bool = option(
        False, help="Leave the names of tensors as they are in the files.", section="How"
    )
    rules: TensorRules = dataclasses.field(default_factory=TensorRules)
    entry: str | None = None
    force: bool = False
    n_threads: int | None = None
    advance: Advance = unheard


def average_checkpoints(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    kind: Kind = "average",
    options: AverageOptions | None = None,
    ranks: Ranks = ALONE,
) -> AverageResult:
    """Average checkpoints into a safetensors file or a folder, streaming, in constant memory.

    Sums are in float64 and converted once at the end. BatchNorm's running statistics are averaged
    like weights, which leaves them stale: recompute them with `update_bn`. The same inputs give the
    same bytes, on any number of threads and ranks.

    Args:
        paths: The checkpoints; see `open_checkpoint` for the formats.
        output: Safetensors file to write; `.pth`, `.pt`, `.bin` and `.ckpt` become files of
            `torch.save`, which keep no metadata. A name that ends in `/` is a folder, which gets
            `model.safetensors`, or shards and their index, and the `config.json` that timm loads
            as `local-dir:`.
        kind: What the metadata calls the output.
        options: How to average.
        ranks: The processes that share the work, each of which calls this, such as
            `distributed()` gives them; they write shards into one folder on a shared disk.

    Raises:
        CheckpointError: A source cannot be read, does not belong with the others, or changed.
        OutputError: The output exists, is one of the sources, or cannot be written.
        OtherRankError: Another rank failed; it raises its own error.
    """
    options = options or AverageOptions()
    folder = as_path(output) if str(output).endswith("/") else None
    with contextlib.ExitStack() as stack:

        def prepare() -> tuple[AveragePlan, CheckpointMetadata, bytes | None]:
            _check_form(output, options, ranks)
            opening = open_all(paths, entry=options.entry, keep_names=options.keep_names)
            plan = plan_average(
                stack.enter_context(opening),
                options.weighting,
                dtype=options.dtype,
                rules=options.rules,
            )
            metadata = describe_average(plan, include_init=options.include_init, kind=kind)
            config = None if folder is None else _config(folder, plan, metadata, options)
            return plan, metadata, config

        plan, metadata, config = together(ranks, prepare)
        if folder is None:
            path, metadata, digest = _write_file(plan, as_path(output), metadata, options)
        elif isinstance(folder, RemotePath):
            check_folder_output(folder, has_config=True, force=options.force)
            with atomic_output(folder / CONFIG_FILE, force=options.force) as file:
                file.write(config or b"")  # sent after the weights
                path = folder / WEIGHTS_FILE
                path, metadata, digest = _write_file(plan, path, metadata, options)
        else:
            path, metadata, digest = write_folder(
                plan, folder, metadata, config=config, options=options, ranks=ranks
            )
    n_averaged = sum(tensor.action == "average" for tensor in plan.tensors)
    return AverageResult(
        path=path,
        digest=digest,
        metadata=metadata,
        n_averaged=n_averaged,
        n_copied=len(plan.tensors) - n_averaged,
        bytes_read=plan.bytes_read,
    )


def _check_form(output: str | Path, options: AverageOptions, ranks: Ranks) -> None:
    """Refuse an output that is no folder of shards where it must be one."""
    if options.max_shard_size is not None and not str(output).endswith("/"):
        raise OutputError(
            f"{output}: shards are written into a folder: end its name in /, or leave out"
            " --max-shard-size"
        )
    if options.max_shard_size is not None and isinstance(as_path(output), RemotePath):
        raise OutputError(f"{output}: shards are written to a disk; give a local folder")
    if options.max_shard_size is None and ranks.world_size > 1:
        raise OutputError(
            f"{output}: {ranks.world_size} processes do not write one file together: give a folder"
            " (-o x/) and --max-shard-size, of which each writes its shards, or start one process"
        )


def _config(
    folder: Path, plan: AveragePlan, metadata: CheckpointMetadata, options: AverageOptions
) -> bytes | None:
    """Return the `config.json` of a folder, if there is one to write.

    Raises:
        CheckpointError: There is none, and shards, which need none, are not asked for.
        OutputError: The output is one of the sources.
    """
    for name in weights_in(folder):
        _check_not_a_source(folder / name, plan.checkpoints)
    source = plan.checkpoints[-1]
    config = model_config(source, metadata)
    if config is None and options.max_shard_size is None:
        raise CheckpointError(
            f"{source.path}: cannot write a model folder: it neither has a {CONFIG_FILE} beside"
            " it nor says that it is a model of timm's; write a .safetensors file instead, or"
            " shards without it: --max-shard-size"
        )
    return config


def _write_file(
    plan: AveragePlan, path: Path, metadata: CheckpointMetadata, options: AverageOptions
) -> tuple[Path, CheckpointMetadata, str]:
    """Run the kernel into a file, which appears when everything has been read."""
    check_weights_output(path, force=options.force)
    _check_not_a_source(path, plan.checkpoints)
    with weights_output(path, force=options.force) as file:
        writer = SafetensorsWriter(file, plan.layout, file_metadata(metadata, plan.ties))

        def write(tensor: TensorPlan, offset: int, data: memoryview) -> None:
            writer.write(tensor.name, offset, data)

        hashes = run_average(
            plan,
            write,
            allow_nonfinite=options.allow_nonfinite,
            advance=options.advance,
            n_threads=options.n_threads,
        )
        digests = digests_of(plan, hashes)
        sources = digests.sources
        if plan.leaves_out:  # a source's digest is that of all its tensors
            sources = tuple(checkpoint.digest() for checkpoint in plan.checkpoints)
        metadata = with_digests(metadata, sources)
        writer.replace_metadata(file_metadata(metadata, plan.ties))
    return path, metadata, digests.output


def _check_not_a_source(output: Path, checkpoints: Sequence[Checkpoint]) -> None:
    for checkpoint in checkpoints:
        for path in checkpoint.files:
            with contextlib.suppress(OSError):  # it does not exist, mostly
                if output == path or os.path.samefile(output, path):
                    raise OutputError(
                        f"{output}: it is one of the checkpoints to average; choose another output"
                    )


@contextlib.contextmanager
def open_all(
    paths: Sequence[str | Path], *, entry: str | None = None, keep_names: bool = False
) -> Iterator[list[Checkpoint]]:
    """Open checkpoints and close them at the end; equal layouts are kept in memory once."""
    with contextlib.ExitStack() as stack:
        checkpoints: list[Checkpoint] = []

        def open_one(path: str | Path) -> Checkpoint:
            opened = open_checkpoint(path, entry=entry, keep_names=keep_names)
            return stack.enter_context(opened)

        paths = [as_path(path) for path in paths]
        is_remote = any(isinstance(path, RemotePath) for path in paths)
        for checkpoint in in_parallel(open_one, paths) if is_remote else map(open_one, paths):
            if checkpoints:
                checkpoint.share_layout(checkpoints[0])
            checkpoints.append(checkpoint)
        yield checkpoints
