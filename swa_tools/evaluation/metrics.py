"""What a model's predictions are measured by: accuracy, likelihood, calibration."""

import dataclasses

import torch
from torch.nn import functional as F

from swa_tools.distributed import Distributed
from swa_tools.records import Record

N_BINS = 15
"""Number of bins of the calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well a model does on a set of images.

    Attributes:
        n_samples: Number of images.
        n_correct: Number of images whose largest output is their label.
        top1: Share of these images, in percent.
        top5: Share of images with their label among the five largest outputs, in percent; None
            if there are no more than five outputs.
        nll: Mean negative log-likelihood of the label, in nats.
        ece: Expected calibration error over 15 equal bins of the largest probability, in percent.
    """

    n_samples: int
    n_correct: int
    top1: float
    top5: float | None
    nll: float
    ece: float

    def record(self, about: Record) -> Record:
        """Return a record with this score.

        Args:
            about: A record that says what was scored, without the score.
        """
        return dataclasses.replace(
            about,
            n_samples=self.n_samples,
            top1=self.top1,
            top5=self.top5,
            nll=self.nll,
            ece=self.ece,
        )


class Tally:
    """Adds up how a model does on the images, batch by batch; sums are in float64.

    Args:
        device: Where the outputs are.
    """

    def __init__(self, *, device: torch.device) -> None:
        self._n_outputs = 0
        self._n_top5 = torch.zeros(1, dtype=torch.int64, device=device)
        # The negative log-likelihood, then confidence minus correctness for each bin.
        self._sums = torch.zeros(1 + N_BINS, dtype=torch.float64, device=device)

    def add(
        self, outputs: torch.Tensor, log_probabilities: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Add a batch and return the label that each of its images gets, (N,).

        Args:
            outputs: Logits, or anything that orders the classes in the same way, (N, C).
            log_probabilities: The logarithm of their softmax, (N, C), float64.
            targets: Labels, (N,), int64.
        """
        predictions = outputs.argmax(dim=1)
        self._n_outputs = outputs.shape[1]
        if self._n_outputs > 5:
            among_five = outputs.topk(5, dim=1).indices == targets[:, None]
            self._n_top5 += among_five.sum()
        confidence = log_probabilities.amax(dim=1).exp()
        # The bins are (0, 1/15], (1/15, 2/15], …
        bins = (confidence * N_BINS).ceil().long().clamp(1, N_BINS)
        self._sums[0] += F.nll_loss(log_probabilities, targets, reduction="sum")
        self._sums.index_add_(0, bins, confidence - (predictions == targets).double())
        return predictions

    def score(self, *, n_samples: int, n_correct: int, context: Distributed) -> Score:
        """Return the score over the images of all ranks; all ranks must call this.

        Args:
            n_samples: Number of images on all ranks together.
            n_correct: Number of these that are labelled right.
            context: The processes that share the images.
        """
        n_top5 = context.sum(self._n_top5).item()
        n_outputs = max(context.gather(self._n_outputs))
        nll, *gaps = context.sum(self._sums).tolist()
        return Score(
            n_samples=n_samples,
            n_correct=n_correct,
            top1=100 * n_correct / n_samples,
            top5=100 * n_top5 / n_samples if n_outputs > 5 else None,
            nll=nll / n_samples,
            ece=100 * sum(abs(gap) for gap in gaps) / n_samples,
        )
