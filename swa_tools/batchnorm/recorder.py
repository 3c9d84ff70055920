"""Hooks on the BatchNorm layers of a model that collect the statistics of every call.

A hook measures what a layer is about to normalise and puts the result into its running statistics;
the layer, in evaluation mode, normalises by them. Train mode does the same except for the sums:
torch's lose digits on a CPU (see `moments`). It costs about as much as train mode.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from swa_tools.batchnorm.estimators import Moments
from swa_tools.batchnorm.moments import batch_moments
from swa_tools.batchnorm.options import Estimator
from swa_tools.distributed import Distributed
from swa_tools.errors import ModelError, SwaToolsError


def batchnorm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers that keep running statistics, by name.

    These are BatchNorm1d/2d/3d, SyncBatchNorm and their subclasses (timm's BatchNormAct2d and
    SyncBatchNormAct). A layer used in several places counts once. Layers with
    `track_running_stats=False` are not included: they always use the statistics of the batch.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and module.running_mean is not None
    }


def layers_without_support(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that keep running statistics but are not BatchNorm, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if _statistics(module) and not isinstance(module, _BatchNorm)
    }


class Recorder:
    """One model during the pass, and the moments of its layers.

    Attributes:
        model: The plain module, not compiled and not wrapped.
        layers: The BatchNorm layers to recompute, by name.
        frozen: The BatchNorm layers to leave alone, by name.
        moments: What the calls of each layer add up to, by name.

    Raises:
        ModelError: A lazy layer has no size yet.
    """

    def __init__(self, model: nn.Module, *, estimator: Estimator) -> None:
        layers = batchnorm_layers(model)
        for name, layer in layers.items():
            if is_lazy(_statistics(layer)["running_mean"]):
                raise ModelError(f"layer {name} has no size yet: run the model on a batch first")
        self.model = model
        self.frozen = {
            name: layer
            for name, layer in layers.items()
            if layer.momentum == 0 or (model.training and not layer.training)
        }
        self.layers = {name: layer for name, layer in layers.items() if name not in self.frozen}
        self.saved = {
            name: {key: buffer.clone() for key, buffer in _statistics(layer).items()}
            for name, layer in self.layers.items()
        }
        self.moments = {
            name: Moments(layer.num_features, estimator=estimator, device=self.device)
            for name, layer in self.layers.items()
        }
        self._batch_size = 0

    @property
    def device(self) -> torch.device:
        """The device of the statistics, and so of the model."""
        layer = next(iter(self.layers.values()))
        return _statistics(layer)["running_mean"].device

    def forward(self, images: torch.Tensor) -> None:
        """Run the model; the hooks add what they see to the moments."""
        self._batch_size = len(images)
        self.model(images)

    @contextlib.contextmanager
    def attached(self, *, train_mode: bool) -> Iterator[None]:
        """Set modes and hooks, and restore them; after an error restore the buffers, too."""
        with contextlib.ExitStack() as undo:
            try:
                self._attach(undo, train_mode=train_mode)
                yield
            except BaseException:
                for name in self.layers:
                    self._restore(name)
                raise

    def _attach(self, undo: contextlib.ExitStack, *, train_mode: bool) -> None:
        for module in self.model.modules():
            undo.callback(setattr, module, "training", module.training)
        self.model.train(train_mode)
        for layer in (
            *self.layers.values(),
            *self.frozen.values(),
            *layers_without_support(self.model).values(),
        ):
            # Not layer.eval(): timm's layers contain an activation and a dropout.
            layer.training = False
        for name, layer in self.layers.items():
            hook = layer.register_forward_pre_hook(self._measure(name), with_kwargs=True)
            undo.callback(hook.remove)

    def merge(self, context: Distributed) -> None:
        """Replace the moments with those of all ranks together."""
        if context.world_size == 1:
            return
        self.moments, *others = context.gather(
            {name: moments.to("cpu") for name, moments in self.moments.items()}
        )
        for other in others:
            for name, moments in self.moments.items():
                moments.merge(other[name])

    def write(self) -> None:
        """Put new statistics into the layers that were called, the old ones into the others."""
        if all(moments.n_calls == 0 for moments in self.moments.values()):
            raise SwaToolsError(
                "the forward pass reached no BatchNorm layer; if parts of the model are compiled,"
                " pass the model from before compiling"
            )
        for name, moments in self.moments.items():
            if moments.n_calls == 0:
                self._restore(name)
                continue
            new = {
                "running_mean": moments.mean,
                "running_var": moments.variance(),
                "num_batches_tracked": torch.tensor(moments.n_calls),
            }
            for key, buffer in _statistics(self.layers[name]).items():
                buffer.copy_(new[key])
                if not buffer.isfinite().all():
                    raise SwaToolsError(
                        f"layer {name}: its new {key} is not finite: the weights or the images"
                        " contain NaN, or the activations overflow; try --amp off, or check the"
                        " weights"
                    )

    @property
    def uncalled(self) -> tuple[str, ...]:
        """Names of the layers that no forward pass has reached."""
        return tuple(name for name, moments in self.moments.items() if moments.n_calls == 0)

    def _restore(self, name: str) -> None:
        for key, buffer in _statistics(self.layers[name]).items():
            buffer.copy_(self.saved[name][key])

    def _measure(self, name: str) -> Callable[..., None]:
        def measure(
            layer: nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]
        ) -> None:
            (activations,) = inputs or named.values()
            count = activations.numel() // activations.shape[1]
            if count < 2:
                raise SwaToolsError(
                    f"layer {name}: a batch of {self._batch_size} gives one value per channel,"
                    " which has no variance; use larger batches, or drop the last one"
                )
            mean, variance = batch_moments(activations)
            self.moments[name].add(mean, variance, count=count, batch_size=self._batch_size)
            statistics = _statistics(layer)
            statistics["running_mean"].copy_(mean)
            statistics["running_var"].copy_(variance)

        return measure


def _statistics(layer: nn.Module) -> dict[str, torch.Tensor]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {key: buffer for key, buffer in layer.named_buffers(recurse=False) if key in names}
