"""Models from timm: `timm/NAME[.TAG]`, `hf-hub:…`, `local-dir:…`."""

import json
import math
from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_model_data_config
from timm.models import load_model_config_from_hf

from swa_tools.checkpoints import Preprocessing
from swa_tools.errors import ModelError
from swa_tools.models.building import (
    IMAGENET_CLASSES,
    BuiltModel,
    Request,
    clear_errors,
    closest,
    model_info,
)

ELSEWHERE = ("hf-hub:", "local-dir:")
"""Prefixes of models outside timm's own list."""


def model_names() -> list[str]:
    """Return the names of all models, as `create_model` takes them."""
    return [f"timm/{name}" for name in timm.list_models()]


def build(request: Request) -> BuiltModel:
    """Build a model from timm, as `create_model` says."""
    is_elsewhere = request.name.startswith(ELSEWHERE)
    timm_name = request.name if is_elsewhere else request.name.removeprefix("timm/")
    if not is_elsewhere:
        _check_name(request.name, timm_name)
    name, kwargs = request.name, dict(request.kwargs)
    n_wanted = request.num_classes
    outputs: dict[str, Any] = {} if n_wanted is None else {"num_classes": n_wanted}
    with clear_errors(request):
        module: Any = timm.create_model(
            timm_name, pretrained=request.pretrained, **outputs, **kwargs
        )
        source = module.pretrained_cfg
        if request.image_size and source.get("fixed_input_size") and "img_size" not in kwargs:
            # The size of a transformer's position embedding depends on the size of its images.
            kwargs["img_size"] = request.image_size
            module = timm.create_model(
                timm_name, pretrained=request.pretrained, **outputs, **kwargs
            )
        if is_elsewhere:
            # Later commands then need neither the network nor that folder.
            name = f"timm/{source['architecture']}"
            kwargs = {**_saved_arguments(timm_name), **kwargs}
    return BuiltModel(
        module=module,
        info=model_info(
            name,
            kwargs=kwargs,
            num_classes=int(module.num_classes),
            own_num_classes=source.get("num_classes", IMAGENET_CLASSES),
        ),
        preprocessing=_preprocessing(module, request),
    )


def _preprocessing(module: Any, request: Request) -> Preprocessing:
    """Return what timm's own loader does for this model, at the size for training, not testing."""
    wanted = {} if request.image_size is None else {"img_size": request.image_size}
    config: dict[str, Any] = resolve_model_data_config(module, args=wanted)  # type: ignore[no-untyped-call]
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ModelError(
            f"{request.name}: its input is {channels} × {height} × {width} (channels × height ×"
            " width); only square RGB images are supported; try --image-size"
        )
    return Preprocessing(
        image_size=height,
        resize=math.floor(height / config["crop_pct"]),
        crop=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _check_name(name: str, timm_name: str) -> None:
    architecture, _, tag = timm_name.partition(".")
    if not timm.is_model(architecture):
        raise ModelError(f"unknown model {name!r}{closest(name, model_names())}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(
            f"{name}: timm has no weights {tag!r} for this model; it has"
            f" {', '.join(tags) or 'none'}"
        )


def _saved_arguments(timm_name: str) -> dict[str, Any]:
    """Return the constructor arguments that a model outside timm's list was saved with."""
    source, _, place = timm_name.partition(":")
    if source == "hf-hub":
        _, _, arguments = load_model_config_from_hf(place)
    else:
        config = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
        arguments = config.get("model_args")
    saved = dict(arguments or {})
    saved.pop("num_classes", None)
    return saved
