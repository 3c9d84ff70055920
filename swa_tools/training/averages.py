"""The averages that a run keeps: the EMA of its weights, and the mean of its captures."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from swa_tools.averaging.running_mean import RunningMean
from swa_tools.checkpoints import AverageInfo, SourceInfo
from swa_tools.errors import TrainingError
from swa_tools.models import from_arrays, to_arrays


class ExponentialAverage:
    """A copy of a module whose floating-point tensors follow the module's: e ← d·e + (1 - d)·w.

    Running statistics are averaged like weights; integer tensors are copied.

    Args:
        module: The module to average, with its weights already loaded.
        decay: d, between 0 and 1.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self._decay = decay
        # Parameters and buffers that are used twice appear once here, unlike in a state_dict.
        pairs = list(zip(_tensors(self.module), _tensors(module), strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._values = [value for average, value in pairs if average.is_floating_point()]
        self._copies = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move one step towards the current weights."""
        torch._foreach_lerp_(self._averages, self._values, 1 - self._decay)
        for copied, value in self._copies:
            copied.copy_(value)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from (parameter.detach() for parameter in module.parameters())
    yield from module.buffers()


NAME = "the average of the captures"


class OnlineAverage:
    """The average of the captures so far.

    Its sums are kept in float64 on the CPU, so it takes no GPU memory and equals the average of the
    files bit for bit. NaN and Inf are not refused here: the run itself looks for them.

    Args:
        include_init: Whether the starting weights are added first, as in Algorithm 1; without them
            it follows the text of section 3.2 and the authors' CIFAR code.
    """

    def __init__(self, *, include_init: bool = False) -> None:
        self._include_init = include_init
        self._mean = RunningMean(allow_nonfinite=True)
        self._sources: list[tuple[str, str]] = []

    @property
    def n_averaged(self) -> int:
        """Number of sets of weights in the average."""
        return self._mean.n_averaged

    def add(self, state_dict: Mapping[str, torch.Tensor], *, name: str, digest: str) -> None:
        """Add a capture.

        Args:
            state_dict: Tensors on any device.
            name: The name of its file.
            digest: The digest of its tensors.

        Raises:
            CheckpointError: A tensor that cannot be averaged differs from the first capture's;
                only `num_batches_tracked` may.
        """
        self._mean.add(to_arrays(state_dict), where=name)
        self._sources.append((name, digest))

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the average as a state_dict, in the captures' own dtypes."""
        return from_arrays(self._mean.mean(), where=NAME)

    def info(self) -> AverageInfo:
        """Return what the average's metadata says about its sources."""
        weight = 1 / max(1, self.n_averaged)
        sources = tuple(
            SourceInfo(name=name, digest=digest, weight=weight) for name, digest in self._sources
        )
        return AverageInfo(include_init=self._include_init, weighting="uniform", sources=sources)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        state = self._mean.state_dict()
        tensors = {kind: from_arrays(state[kind], where=NAME) for kind in ("sums", "copies")}
        return {"mean": {**state, **tensors}, "sources": list(self._sources)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of an earlier average.

        Raises:
            TrainingError: The state was written by a version that kept other numbers.
        """
        if "mean" not in state:
            raise TrainingError(
                "the run's average was kept by an older version of swa-tools and cannot be resumed"
                " exactly; resume with that version, or start another run with -o"
            )
        arrays = {kind: to_arrays(state["mean"][kind]) for kind in ("sums", "copies")}
        self._mean.load_state_dict({**state["mean"], **arrays})
        self._sources = [(name, digest) for name, digest in state["sources"]]
