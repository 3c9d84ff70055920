"""Models by name, built by the library that has them.

A model is built together with the preprocessing that its weights were made for: torchvision's
`weights.transforms()`, timm's `pretrained_cfg`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from swa_tools.errors import ModelError
from swa_tools.models.building import BuiltModel, Request, closest


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> BuiltModel:
    """Build a model from torchvision or timm.

    Args:
        name: `torchvision/NAME[:WEIGHTS]`, `timm/NAME[.TAG]`, or timm's `hf-hub:…`, `local-dir:…`.
            Without WEIGHTS or TAG the library's default weights are meant.
        pretrained: Whether to load the weights, through the library's own code and cache.
        num_classes: Number of outputs; None for as many as the weights have. If the weights have
            another number, the classifier is drawn anew from torch's global generator.
        kwargs: Further arguments of the library's constructor.
        image_size: Height and width of the input, in pixels; None for the weights' own. The resize
            before the crop changes in proportion.

    Raises:
        ModelError: The model or its weights are unknown, cannot be loaded, or do not go with the
            arguments.
    """
    for title, value in (("number of classes", num_classes), ("image size", image_size)):
        if value is not None and value < 1:
            raise ModelError(f"{name}: the {title} is {value}, expected at least 1")
    request = Request(
        name=name,
        pretrained=pretrained,
        num_classes=num_classes,
        kwargs=dict(kwargs or {}),
        image_size=image_size,
    )
    # Importing a library takes a second or two: only the one that is asked for.
    if name.startswith("torchvision/"):
        from swa_tools.models import torchvision_models

        return torchvision_models.build(request)
    from swa_tools.models import timm_models

    if name.startswith(("timm/", *timm_models.ELSEWHERE)):
        return timm_models.build(request)
    from swa_tools.models import torchvision_models

    known = [*torchvision_models.model_names(), *timm_models.model_names()]
    raise ModelError(
        f"unknown model {name!r}: expected torchvision/NAME[:WEIGHTS], timm/NAME[.TAG], hf-hub:…"
        f" or local-dir:…{closest(name, known)}"
    )


@torch.no_grad()
def replace_head(built: BuiltModel, classes: Sequence[str]) -> BuiltModel:
    """Return the model with a new classifier over these classes; all other weights are kept.

    The classifier is drawn from torch's global generator, even if the number of classes stays the
    same. `built` is not changed.

    Args:
        built: A model from `create_model` or `load_checkpoint`.
        classes: The folder name of each output, in their order.
    """
    info = built.info
    with torch.random.fork_rng(devices=[]):
        # The classifier is the part whose shape depends on the number of classes.
        other = create_model(info.name, num_classes=info.num_classes + 1, kwargs=info.kwargs)
    other_shapes = {name: tensor.shape for name, tensor in other.module.state_dict().items()}
    fresh = create_model(info.name, num_classes=len(classes), kwargs=info.kwargs).module
    target = fresh.state_dict()
    for name, tensor in built.module.state_dict().items():
        if tensor.shape == other_shapes[name]:
            target[name].copy_(tensor)
    own = dataclasses.replace(info, num_classes=len(classes), classes=tuple(classes), head="own")
    return BuiltModel(module=fresh, info=own, preprocessing=built.preprocessing)


def has_batchnorm(module: nn.Module) -> bool:
    """Tell whether any BatchNorm layer of the module keeps running statistics."""
    return any(
        isinstance(layer, _BatchNorm) and layer.running_mean is not None
        for layer in module.modules()
    )
