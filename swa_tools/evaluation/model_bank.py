"""Many checkpoints of one model in bounded memory: weights are swapped in and out."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from swa_tools.data import Batch
from swa_tools.evaluation.one_pass import Predictor, module_predictor
from swa_tools.models import load_into

Source = Callable[[], Mapping[str, torch.Tensor]]
"""Reads a state dict, anew at each call."""


class ModelBank:
    """A model with several sets of weights, a few of which are in memory at a time.

    Each of the first `at_once − 1` sets has its own module. All others share one more module and
    are read again at every turn. Going through the sets in order, batch after batch, therefore
    reads as little as possible.

    Args:
        module: The network; also one of the modules that weights are loaded into.
        sources: Where to read each set of weights, by name.
        at_once: Modules in memory, at least 1.
        compiled: Whether the modules run through `torch.compile`.

    Raises:
        ModelError: From `module_of`, if weights do not fit the network.
    """

    def __init__(
        self,
        module: nn.Module,
        sources: Mapping[str, Source],
        *,
        at_once: int,
        compiled: bool = False,
    ) -> None:
        if at_once < 1:
            raise ValueError(f"expected at least 1 module in memory, found {at_once}")
        self._sources = sources
        n_modules = min(at_once, len(sources))
        modules = [module, *(copy.deepcopy(module) for _ in range(n_modules - 1))]
        if compiled:
            for one in modules:
                one.compile()
        self._modules = modules
        self._holds: list[str | None] = [None] * n_modules
        self._place = {name: min(i, n_modules - 1) for i, name in enumerate(sources)}

    def module_of(self, name: str) -> nn.Module:
        """Return a module with these weights; the next call may put others into it."""
        place = self._place[name]
        module = self._modules[place]
        if self._holds[place] != name:
            self._holds[place] = None
            load_into(module, self._sources[name](), where=name)
            self._holds[place] = name
        return module

    def predictor(self, name: str, *, amp: torch.dtype | None = None) -> Predictor:
        """Return the predictor that runs these weights.

        Args:
            name: Which set of weights.
            amp: dtype of mixed precision; None for full precision.
        """

        def predict(batch: Batch) -> torch.Tensor:
            return module_predictor(self.module_of(name), amp=amp)(batch)

        return predict
