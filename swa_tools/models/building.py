"""What building a model has in common for both libraries."""

import contextlib
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from swa_tools.checkpoints import ModelInfo, Preprocessing
from swa_tools.errors import ModelError

IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `create_model` was asked for, its arguments checked."""

    name: str
    pretrained: bool
    num_classes: int | None
    kwargs: Mapping[str, Any]
    image_size: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A model, what metadata says about it, and how its images are prepared.

    Attributes:
        module: The network, on the CPU, in train mode as the library builds it.
        info: Name, arguments and classes.
        preprocessing: How evaluation prepares an image; training uses its size, interpolation, mean
            and std.
    """

    module: nn.Module
    info: ModelInfo
    preprocessing: Preprocessing

    def on(self, device: torch.device, *, channels_last: bool) -> "BuiltModel":
        """Return the model on a device, in a memory layout; the module itself goes there."""
        module = self.module.to(device)
        if channels_last:
            module = module.to(memory_format=torch.channels_last)
        return dataclasses.replace(self, module=module)


def model_info(
    name: str, *, kwargs: Mapping[str, Any], num_classes: int, own_num_classes: int
) -> ModelInfo:
    """Return the metadata of a model whose weights came with `own_num_classes` outputs."""
    return ModelInfo(
        name=name,
        kwargs=dict(kwargs),
        num_classes=num_classes,
        head="imagenet-1k" if num_classes == own_num_classes == IMAGENET_CLASSES else "own",
    )


def resized(preprocessing: Preprocessing, image_size: int) -> Preprocessing:
    """Return the preprocessing for another input size, with the resize changed in proportion."""
    resize = preprocessing.resize * image_size // preprocessing.image_size
    return dataclasses.replace(preprocessing, image_size=image_size, resize=resize)


@contextlib.contextmanager
def clear_errors(request: Request) -> Iterator[None]:
    """Turn whatever a library raises while it builds a model into a one-line error.

    Neither library documents what its constructors and downloads raise.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        needs_weights = request.pretrained or request.name.startswith("hf-hub:")
        if needs_weights and isinstance(error, OSError):
            raise ModelError(
                f"{request.name}: cannot load its pretrained weights ({reason}); connect to the"
                " network, or give weights on disk with --checkpoint FILE"
            ) from error
        arguments = f" with the arguments {dict(request.kwargs)}" if request.kwargs else ""
        raise ModelError(f"{request.name}: cannot build this model{arguments}: {reason}") from error


def closest(name: str, known: Sequence[str]) -> str:
    """Return a hint with the known names closest to this one, compared without the library."""
    by_end = {item: item.rpartition("/")[2] for item in known}
    wanted = name.rpartition("/")[2].partition(":")[0].partition(".")[0]
    ends = difflib.get_close_matches(wanted, sorted(set(by_end.values())), n=3, cutoff=0.6)
    close = [item for end in ends for item in known if by_end[item] == end]
    return f"; did you mean {', '.join(close[:4])}?" if close else ""
