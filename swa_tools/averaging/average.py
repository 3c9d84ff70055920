"""Average checkpoint files into a file."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from swa_tools import __version__
from swa_tools.averaging.kernel import run_average
from swa_tools.averaging.plan import AveragePlan, TensorPlan, plan_average
from swa_tools.averaging.weighting import Uniform, Weighting
from swa_tools.checkpoints import (
    AverageInfo,
    BnInfo,
    Checkpoint,
    CheckpointMetadata,
    SafetensorsWriter,
    SourceInfo,
    atomic_output,
    check_output,
    file_metadata,
    open_checkpoint,
)
from swa_tools.errors import CheckpointError, OutputError

UNKNOWN_DIGEST = "xxh3-128:" + "0" * 32
"""Stands in the header until everything has been read; of the same length as any other."""


@dataclasses.dataclass(frozen=True, slots=True)
class AverageResult:
    """What was written.

    Attributes:
        path: The output.
        digest: Content digest of its tensors.
        metadata: What it says of itself.
        n_averaged, n_copied: Number of tensors of either kind.
        bytes_read: Bytes of all sources.
    """

    path: Path
    digest: str
    metadata: CheckpointMetadata
    n_averaged: int
    n_copied: int
    bytes_read: int


def average_checkpoints(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    weighting: Weighting | None = None,
    include_init: bool = False,
    dtype: str | None = None,
    entry: str | None = None,
    allow_nonfinite: bool = False,
    force: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    n_threads: int | None = None,
) -> AverageResult:
    """Average checkpoints into one safetensors file, streaming, in constant memory.

    Sums are in float64 and converted once at the end. Running statistics of BatchNorm are averaged
    like weights and are stale from then on: recompute them with `update_bn`. The same inputs give
    the same bytes, on any number of threads.

    Args:
        paths: The checkpoints; see `open_checkpoint` for the formats.
        output: Safetensors file to write.
        weighting: `Uniform` by default.
        include_init: Whether the first path is the starting point ŵ, for the metadata.
        dtype: dtype of the averaged tensors; by default that of the sources.
        entry: Which weights to take from pickled files that hold several.
        allow_nonfinite: Whether NaN and Inf may pass.
        force: Whether an existing output may be replaced.
        on_bytes: Called with the number of bytes read since its last call.
        n_threads: By default one for each core, up to 8.

    Raises:
        CheckpointError: A source cannot be read, does not belong with the others, or changed.
        OutputError: The output exists, is one of the sources, or cannot be written.
    """
    output = Path(output)
    check_output(output, force=force)
    with open_all(paths, entry=entry) as checkpoints:
        _check_not_a_source(output, checkpoints)
        plan = plan_average(checkpoints, weighting or Uniform(), dtype=dtype)
        metadata = describe(plan, include_init=include_init)
        layout = {tensor.name: (tensor.output_dtype, tensor.shape) for tensor in plan.tensors}
        with atomic_output(output, force=force) as file:
            writer = SafetensorsWriter(file, layout, file_metadata(metadata, plan.ties))

            def write(_output: int, tensor: TensorPlan, offset: int, data: memoryview) -> None:
                writer.write(tensor.name, offset, data)

            digests = run_average(
                plan,
                write,
                allow_nonfinite=allow_nonfinite,
                on_bytes=on_bytes,
                n_threads=n_threads,
            )
            metadata = _with_digests(metadata, digests.sources)
            writer.replace_metadata(file_metadata(metadata, plan.ties))
    n_averaged = sum(tensor.action == "average" for tensor in plan.tensors)
    return AverageResult(
        path=output,
        digest=digests.outputs[0],
        metadata=metadata,
        n_averaged=n_averaged,
        n_copied=len(plan.tensors) - n_averaged,
        bytes_read=plan.bytes_read,
    )


@contextlib.contextmanager
def open_all(paths: Sequence[str | Path], *, entry: str | None = None) -> Iterator[list[Checkpoint]]:
    """Open checkpoints and close them at the end; equal layouts are kept in memory once."""
    with contextlib.ExitStack() as stack:
        checkpoints: list[Checkpoint] = []
        for path in paths:
            checkpoint = stack.enter_context(open_checkpoint(path, entry=entry))
            if checkpoints and checkpoint.tensors == checkpoints[0].tensors:
                checkpoint.tensors = checkpoints[0].tensors
            checkpoints.append(checkpoint)
        yield checkpoints


def _check_not_a_source(output: Path, checkpoints: Sequence[Checkpoint]) -> None:
    if not output.exists():
        return
    for checkpoint in checkpoints:
        for path in checkpoint.files:
            if os.path.samefile(output, path):
                raise OutputError(
                    f"{output}: it is one of the checkpoints to average; choose another output"
                )


def describe(plan: AveragePlan, *, include_init: bool = False) -> CheckpointMetadata:
    """Return the metadata of the average that a plan makes, its digests not known yet.

    Raises:
        CheckpointError: The sources say that they belong to different models.
    """
    known = [checkpoint for checkpoint in plan.checkpoints if checkpoint.metadata]
    models = [(c, c.metadata.model) for c in known if c.metadata and c.metadata.model]
    for other, model in models[1:]:
        if model != models[0][1]:
            raise CheckpointError(
                f"{other.path}: it belongs to another model than {models[0][0].path}:"
                f" {model} and {models[0][1]}"
            )
    last = known[-1].metadata if known else None
    return CheckpointMetadata(
        kind="average",
        model=models[0][1] if models else None,
        preprocessing=last.preprocessing if last else None,
        bn=_bn_of(plan),
        average=AverageInfo(
            include_init=include_init,
            weighting=plan.weighting,
            sources=tuple(
                SourceInfo(
                    name=checkpoint.name,
                    digest=UNKNOWN_DIGEST,
                    weight=factor / plan.divisor,
                    n=_n_averaged(checkpoint),
                )
                for checkpoint, factor in zip(plan.checkpoints, plan.coefficients, strict=True)
            ),
        ),
        swa_tools=__version__,
    )


def _bn_of(plan: AveragePlan) -> BnInfo:
    if not plan.has_running_statistics:
        return BnInfo(state="none")
    if len(plan.checkpoints) > 1:
        return BnInfo(state="stale")
    metadata = plan.checkpoints[0].metadata  # the average of one checkpoint is that checkpoint
    return metadata.bn if metadata else BnInfo(state="unknown")


def _n_averaged(checkpoint: Checkpoint) -> int:
    average = checkpoint.metadata.average if checkpoint.metadata else None
    return sum(source.n for source in average.sources) if average else 1


def _with_digests(metadata: CheckpointMetadata, digests: Sequence[str]) -> CheckpointMetadata:
    average = metadata.average
    assert average is not None
    sources = tuple(
        dataclasses.replace(source, digest=digest)
        for source, digest in zip(average.sources, digests, strict=True)
    )
    return dataclasses.replace(metadata, average=dataclasses.replace(average, sources=sources))
