"""Ensembles, and how far apart their members are (section 3.5 of the paper).

An ensemble's output is the mean of its members' softmax. The paper compares it with the average of
the same weights by two figures: the L2 norm of the difference between an image's class
probabilities, averaged over the images, and the share of images that get the same label.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import torch

from swa_tools.distributed import Distributed
from swa_tools.evaluation.metrics import Tally

ENSEMBLE = "ensemble"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike two models answer.

    Attributes:
        first, second: The models' names; `ensemble` is the ensemble.
        l2: L2 norm of the difference between an image's class probabilities, averaged over images.
        same_label: Share of images to which both give the same label, in percent.
    """

    first: str
    second: str
    l2: float
    same_label: float


class EnsembleTally:
    """Adds up how an ensemble does on the images, and how its members agree.

    Args:
        members: Names of the members, in order; at least one.
        others: Names of the models to compare with the ensemble.
        device: Where the log-probabilities are.
    """

    def __init__(
        self, members: Sequence[str], *, others: Sequence[str], device: torch.device
    ) -> None:
        self.tally = Tally(device=device)
        self._members = members
        pairs = [*itertools.pairwise(members), *((name, ENSEMBLE) for name in others)]
        # For each pair: the number of images with the same label, and the sum of the norms.
        self._sums = {pair: torch.zeros(2, dtype=torch.float64, device=device) for pair in pairs}

    def add(
        self, log_probabilities: Mapping[str, torch.Tensor], targets: torch.Tensor
    ) -> torch.Tensor:
        """Add a batch and return the label that the ensemble gives each image, (N,).

        Args:
            log_probabilities: Logarithm of the softmax of every model, by name, (N, C), float64.
            targets: Labels, (N,), int64.
        """
        total = log_probabilities[self._members[0]]
        for name in self._members[1:]:
            total = torch.logaddexp(total, log_probabilities[name])
        mean = total - math.log(len(self._members))
        by_name = {**log_probabilities, ENSEMBLE: mean}
        for (first, second), sums in self._sums.items():
            n_same = (by_name[first].argmax(dim=1) == by_name[second].argmax(dim=1)).sum()
            distances = (by_name[first].exp() - by_name[second].exp()).norm(dim=1)
            sums += torch.stack([n_same, distances.sum()])
        return self.tally.add(mean, mean, targets)

    def agreements(self, *, n_samples: int, context: Distributed) -> tuple[Agreement, ...]:
        """Return the agreement of each pair over all ranks' images; all ranks must call this.

        Args:
            n_samples: Number of images on all ranks together.
            context: The processes that share the images.
        """
        agreements = []
        for (first, second), sums in self._sums.items():
            n_same, distance = (context.sum(sums) / n_samples).tolist()
            agreements.append(
                Agreement(first=first, second=second, l2=distance, same_label=100 * n_same)
            )
        return tuple(agreements)
