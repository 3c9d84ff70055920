"""Models from torchvision: `torchvision/NAME[:WEIGHTS]`."""

from typing import Any

import torch
import torchvision.models
from torch import nn

from swa_tools.checkpoints import Preprocessing
from swa_tools.errors import ModelError
from swa_tools.models.building import (
    BuiltModel,
    Request,
    clear_errors,
    closest,
    model_info,
    resized,
)

SINGLE_OUTPUT = {
    # torchvision changes these arguments when it loads pretrained weights. They are fixed here and
    # recorded, so that a checkpoint's module is built the same, with one output in training, too.
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": False},
}

FIXED_SIZE = {"vit_": "image_size", "maxvit_": "input_size"}
"""Models built for a single image size, by the start of their names, with the constructor's
argument for it."""


def model_names() -> list[str]:
    """Return the names of all classification models, as `create_model` takes them."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision/{name}" for name in names]


def build(request: Request) -> BuiltModel:
    """Build a model from torchvision, as `create_model` says."""
    architecture, _, tag = request.name.partition("/")[2].partition(":")
    weights = _weights(request.name, architecture, tag)
    kwargs = {**SINGLE_OUTPUT.get(architecture, {}), **request.kwargs}
    n_own = len(weights.meta["categories"])
    n_outputs = request.num_classes or n_own
    preprocessing = _preprocessing(weights, request, architecture)
    builder = torchvision.models.get_model_builder(architecture)
    with clear_errors(request):
        if request.pretrained:
            module = builder(weights=weights, **kwargs)
        if not request.pretrained or n_outputs != n_own:
            fresh = builder(weights=None, num_classes=n_outputs, **kwargs)
            module = _with_new_classifier(module, fresh) if request.pretrained else fresh
    return BuiltModel(
        module=module,
        info=model_info(request.name, kwargs=kwargs, num_classes=n_outputs, own_num_classes=n_own),
        preprocessing=preprocessing,
    )


def _weights(name: str, architecture: str, tag: str) -> Any:
    if f"torchvision/{architecture}" not in model_names():
        raise ModelError(f"unknown model {name!r}{closest(name, model_names())}")
    members = torchvision.models.get_model_weights(architecture).__members__
    if tag and tag not in members:
        raise ModelError(
            f"{name}: torchvision has no weights {tag!r} for this model; it has"
            f" {', '.join(members)}"
        )
    return members[tag or "DEFAULT"]


def _preprocessing(weights: Any, request: Request, architecture: str) -> Preprocessing:
    transforms = weights.transforms()
    preprocessing = Preprocessing(
        image_size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        crop="center",
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    size = request.image_size
    if size is None or size == preprocessing.image_size:
        return preprocessing
    for start, argument in FIXED_SIZE.items():
        if architecture.startswith(start) and request.kwargs.get(argument) != size:
            raise ModelError(
                f"{request.name}: is built for images of {preprocessing.image_size} pixels, not"
                f" {size}; give --model-kwargs {argument}={size}, too"
            )
    return resized(preprocessing, size)


@torch.no_grad()
def _with_new_classifier(source: nn.Module, module: nn.Module) -> nn.Module:
    """Copy all weights but those of the classifier, whose shape differs; return `module`."""
    target = module.state_dict()
    for name, tensor in source.state_dict().items():
        if target[name].shape == tensor.shape:
            target[name].copy_(tensor)
    return module
