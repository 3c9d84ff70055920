"""A checkpoint file to a model that runs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swa_tools.checkpoints import Checkpoint, CheckpointMetadata, ModelInfo, open_checkpoint
from swa_tools.errors import ModelError
from swa_tools.models.building import BuiltModel, resized
from swa_tools.models.libraries import create_model
from swa_tools.models.state_dicts import load_into, read_tensors


def load_checkpoint(
    path: str | Path,
    *,
    model: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    entry: str | None = None,
    image_size: int | None = None,
) -> tuple[BuiltModel, CheckpointMetadata | None]:
    """Build the model that a checkpoint belongs to and load its weights.

    Args:
        path: Any file that `checkpoints.open_checkpoint` opens.
        model: Name as `create_model` takes it, for files that do not say theirs.
        kwargs: Arguments of its constructor, for the same.
        num_classes: Its outputs, for the same; None reads the number off the file.
        entry: Which set of weights to take where a pickled file holds several.
        image_size: Input size instead of the recorded one or the library's own.

    Returns:
        The model, and what the file says of itself.

    Raises:
        CheckpointError: The file cannot be read.
        ModelError: The model is unknown or not named, contradicts the file's own metadata, or its
            tensors do not fit.
    """
    with open_checkpoint(path, entry=entry) as checkpoint:
        metadata = checkpoint.metadata
        if metadata is not None and metadata.model is not None:
            _check_agreement(metadata.model, model, kwargs, num_classes, where=str(path))
            built = _recorded_model(metadata.model, metadata, image_size)
        elif model is None:
            raise ModelError(f"{path}: does not say which model it belongs to; say it with --model")
        else:
            built = create_model(
                model, num_classes=num_classes, kwargs=kwargs, image_size=image_size
            )
            n_found = _count_outputs(checkpoint, built) if num_classes is None else None
            if n_found is not None:
                built = create_model(
                    model, num_classes=n_found, kwargs=kwargs, image_size=image_size
                )
        state_dict = read_tensors(checkpoint)
    load_into(built.module, state_dict, where=str(path))
    return built, metadata


def _recorded_model(
    info: ModelInfo, metadata: CheckpointMetadata, image_size: int | None
) -> BuiltModel:
    built = create_model(
        info.name, num_classes=info.num_classes, kwargs=info.kwargs, image_size=image_size
    )
    preprocessing = metadata.preprocessing or built.preprocessing
    if image_size is not None:
        preprocessing = resized(preprocessing, image_size)
    return dataclasses.replace(built, info=info, preprocessing=preprocessing)


def _check_agreement(
    info: ModelInfo,
    model: str | None,
    kwargs: Mapping[str, Any] | None,
    num_classes: int | None,
    *,
    where: str,
) -> None:
    for title, found, given in (
        ("model", architecture(info.name), model and architecture(model)),
        ("model kwargs", info.kwargs, kwargs and dict(kwargs)),
        ("number of classes", info.num_classes, num_classes),
    ):
        if given and given != found:
            raise ModelError(
                f"{where}: its metadata says {title} {found}, but {given} was given; leave it out"
            )


def architecture(name: str) -> str:
    """Return a model's name without its weights: neither timm's tag nor torchvision's enum."""
    library, slash, rest = name.partition("/")
    return f"{library}{slash}{rest.partition(':')[0].partition('.')[0]}" if slash else name


def _count_outputs(checkpoint: Checkpoint, built: BuiltModel) -> int | None:
    """Return the classifier's outputs in the file where they are not the library's own number.

    The classifier is where only the first dimension differs, and was the number of outputs.
    """
    found = set()
    for name, tensor in built.module.state_dict().items():
        if name not in checkpoint.tensors or tensor.ndim == 0:
            continue
        shape = checkpoint.tensors[name].shape
        is_classifier = tensor.shape[0] == built.info.num_classes
        if is_classifier and shape != tensor.shape and shape[1:] == tensor.shape[1:]:
            found.add(shape[0])
    return found.pop() if len(found) == 1 else None
