"""An exponential moving average of the weights, beside the weights themselves."""

import copy
from collections.abc import Iterator

import torch
from torch import nn


class ExponentialAverage:
    """A copy of a module whose floating-point tensors follow the module's: e ← d·e + (1 - d)·w.

    Running statistics are averaged like weights; integer tensors are copied.

    Args:
        module: What is averaged, after its weights were loaded.
        decay: d, between 0 and 1.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self._decay = decay
        # Parameters and buffers that are used twice come once, unlike in a state_dict.
        pairs = list(zip(_tensors(self.module), _tensors(module), strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._values = [value for average, value in pairs if average.is_floating_point()]
        self._copies = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the weights as they are now."""
        torch._foreach_lerp_(self._averages, self._values, 1 - self._decay)
        for copied, value in self._copies:
            copied.copy_(value)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from (parameter.detach() for parameter in module.parameters())
    yield from module.buffers()
