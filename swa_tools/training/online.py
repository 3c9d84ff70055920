"""The average of Algorithm 1, kept in the run, so that no capture needs to stay."""

from collections.abc import Mapping
from typing import Any

import torch

from swa_tools.checkpoints import AverageInfo, SourceInfo


class OnlineAverage:
    """The running average of the captures: w̄ ← (n·w̄ + w)/(n + 1).

    It is kept in float64 on the CPU, so it takes nothing of the GPU's memory and n additions lose
    nothing that shows in float32. Integer tensors come from the last capture.

    Args:
        include_init: Whether the starting weights are added first, as Algorithm 1 is printed;
            without them it is the text of section 3.2 and the authors' CIFAR code.

    Attributes:
        n_averaged: How many captures it holds.
    """

    def __init__(self, *, include_init: bool = False) -> None:
        self._include_init = include_init
        self.n_averaged = 0
        self._tensors: dict[str, torch.Tensor] = {}
        self._sources: list[tuple[str, str]] = []

    def add(self, state_dict: Mapping[str, torch.Tensor], *, name: str, digest: str) -> None:
        """Add a capture.

        Args:
            state_dict: On any device.
            name: Of its file.
            digest: Of its tensors.
        """
        for key, tensor in state_dict.items():
            value = tensor.detach().cpu()
            if value.is_floating_point() and self.n_averaged:
                average = self._tensors[key]
                average += (value - average) / (self.n_averaged + 1)
            else:
                dtype = torch.float64 if value.is_floating_point() else value.dtype
                self._tensors[key] = value.to(dtype, copy=True)
        self._sources.append((name, digest))
        self.n_averaged += 1

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the average as a state_dict, floating-point tensors in float64."""
        return dict(self._tensors)

    def info(self) -> AverageInfo:
        """Return what the average's metadata says of its sources."""
        weight = 1 / max(1, self.n_averaged)
        sources = tuple(
            SourceInfo(name=name, digest=digest, weight=weight) for name, digest in self._sources
        )
        return AverageInfo(include_init=self._include_init, weighting="uniform", sources=sources)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {"tensors": dict(self._tensors), "sources": list(self._sources)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of an earlier average."""
        self._tensors = {name: tensor.clone() for name, tensor in state["tensors"].items()}
        self._sources = [(name, digest) for name, digest in state["sources"]]
        self.n_averaged = len(self._sources)
