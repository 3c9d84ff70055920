"""What the metadata of an average says."""

import dataclasses
from collections.abc import Sequence
from typing import cast

from swa_tools import __version__
from swa_tools.averaging.plan import AveragePlan
from swa_tools.checkpoints import (
    AverageInfo,
    BnInfo,
    Checkpoint,
    CheckpointMetadata,
    ModelInfo,
    SourceInfo,
)
from swa_tools.checkpoints.metadata import Kind
from swa_tools.errors import CheckpointError

UNKNOWN_DIGEST = "xxh3-128:" + "0" * 32
"""Stands in the header until everything has been read; of the same length as any other."""


def describe_average(
    plan: AveragePlan, *, include_init: bool = False, kind: Kind = "average"
) -> CheckpointMetadata:
    """Return the metadata of the average that a plan makes, its digests not known yet.

    Raises:
        CheckpointError: The sources say that they belong to different models.
    """
    model, last = _model_of(plan.checkpoints)
    sources = tuple(
        SourceInfo(
            name=checkpoint.name,
            digest=UNKNOWN_DIGEST,
            weight=factor / plan.divisor,
            n=_n_averaged(checkpoint),
        )
        for checkpoint, factor in zip(plan.checkpoints, plan.coefficients, strict=True)
    )
    return CheckpointMetadata(
        kind=kind,
        model=model,
        preprocessing=None if last is None else last.preprocessing,
        view=None if last is None else last.view,
        data=None if last is None else last.data,
        bn=_bn_of(plan),
        average=AverageInfo(
            include_init=include_init,
            weighting=plan.weighting,
            sources=sources,
            **dataclasses.asdict(plan.rules),
        ),
        swa_tools=__version__,
    )


def with_digests(metadata: CheckpointMetadata, digests: Sequence[str]) -> CheckpointMetadata:
    """Return the metadata of an average with the digests of its sources, in their order."""
    average = cast("AverageInfo", metadata.average)
    sources = tuple(
        dataclasses.replace(source, digest=digest)
        for source, digest in zip(average.sources, digests, strict=True)
    )
    return dataclasses.replace(metadata, average=dataclasses.replace(average, sources=sources))


def _model_of(
    checkpoints: Sequence[Checkpoint],
) -> tuple[ModelInfo | None, CheckpointMetadata | None]:
    """Return the model that the sources agree on, and the last metadata that name it."""
    model: ModelInfo | None = None
    last: CheckpointMetadata | None = None
    said_by: Checkpoint | None = None
    for checkpoint in checkpoints:
        metadata = checkpoint.metadata
        if metadata is None or metadata.model is None:
            continue
        if model is None or said_by is None:
            model, said_by = metadata.model, checkpoint
        for field in dataclasses.fields(ModelInfo):
            expected, found = getattr(model, field.name), getattr(metadata.model, field.name)
            if found != expected:
                raise CheckpointError(
                    f"{checkpoint.path}: another model than that of {said_by.path}: its"
                    f" {field.name} is {found!r:.100}, expected {expected!r:.100}"
                )
        last = metadata
    return model, last


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
