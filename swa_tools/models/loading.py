"""From a checkpoint file to a model that runs."""

import dataclasses
import functools
from pathlib import Path

from swa_tools.checkpoints import Checkpoint, CheckpointMetadata, ModelInfo, open_checkpoint
from swa_tools.errors import ModelError
from swa_tools.models.building import BuiltModel, resized
from swa_tools.models.choice import ModelChoice
from swa_tools.models.libraries import create_model
from swa_tools.models.state_dicts import load_into, read_tensors


def load_checkpoint(
    path: str | Path, choice: ModelChoice | None = None
) -> tuple[BuiltModel, CheckpointMetadata | None]:
    """Build the model that a checkpoint belongs to and load its weights.

    Args:
        path: Any file that `checkpoints.open_checkpoint` opens.
        choice: Which model the file belongs to, where it does not say; the number of classes is
            taken from the file if it is not given.

    Returns:
        The model, and the file's metadata; None if it has none.

    Raises:
        CheckpointError: The file cannot be read.
        ModelError: The model is unknown or not named, contradicts the file's own metadata, or does
            not fit its tensors.
    """
    choice = choice or ModelChoice()
    with open_checkpoint(path, entry=choice.entry) as checkpoint:
        metadata = checkpoint.metadata
        if metadata is not None and metadata.model is not None:
            _check_agreement(metadata.model, choice, where=str(path))
            built = _recorded_model(metadata.model, metadata, choice.image_size)
        else:
            built = _chosen_model(checkpoint, choice, where=str(path))
        state_dict = read_tensors(checkpoint)
    load_into(built.module, state_dict, where=str(path))
    return built, metadata


def _chosen_model(checkpoint: Checkpoint, choice: ModelChoice, *, where: str) -> BuiltModel:
    if choice.model is None:
        raise ModelError(f"{where}: does not say which model it belongs to; name it with --model")
    create = functools.partial(
        create_model, choice.model, kwargs=choice.model_kwargs, image_size=choice.image_size
    )
    built = create(num_classes=choice.num_classes)
    n_found = _count_outputs(checkpoint, built) if choice.num_classes is None else None
    return built if n_found is None else create(num_classes=n_found)


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


def _check_agreement(info: ModelInfo, choice: ModelChoice, *, where: str) -> None:
    for title, found, given in (
        ("model", architecture(info.name), choice.model and architecture(choice.model)),
        ("model kwargs", info.kwargs, choice.model_kwargs),
        ("number of classes", info.num_classes, choice.num_classes),
    ):
        if given and given != found:
            raise ModelError(
                f"{where}: its metadata says {title} {found}, but {given} was given; give none"
            )


def architecture(name: str) -> str:
    """Return a model's name without its weights: neither timm's tag nor torchvision's enum."""
    library, slash, rest = name.partition("/")
    return f"{library}{slash}{rest.partition(':')[0].partition('.')[0]}" if slash else name


def _count_outputs(checkpoint: Checkpoint, built: BuiltModel) -> int | None:
    """Return the number of outputs in the file if it differs from the library's own.

    The classifier's tensors are those whose shape differs in the first dimension alone, which is
    the number of outputs in the library's model.
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
