"""Score any number of models in one pass over the images."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from swa_tools.data import Batch
from swa_tools.distributed import Distributed, clear_memory_errors, float64_device
from swa_tools.errors import DataError, ModelError
from swa_tools.evaluation.ensemble import ENSEMBLE, Agreement, EnsembleTally
from swa_tools.evaluation.metrics import Score, Tally
from swa_tools.listening import Advance, unheard
from swa_tools.statistics import mcnemar

Predictor = Callable[[Batch], torch.Tensor]
"""Turns a batch into logits (N, C), wherever they come from."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The scores of models on one set of images.

    Attributes:
        scores: Score of each model by name, in the order in which the models were given.
        ensemble: Score of the mean of the members' softmax, if it was asked for.
        agreements: With an ensemble, of each member with the next, then of each other model with
            the ensemble.
        indices: Position in the set of every image that was scored, ascending, (N,).
        targets: Labels of these images, (N,).
        predictions: The labels that each model gives these images, (N,) each; includes `ensemble`
            if there is one.
    """

    scores: dict[str, Score]
    ensemble: Score | None
    agreements: tuple[Agreement, ...]
    indices: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    predictions: dict[str, npt.NDArray[np.int64]]

    def is_correct(self, name: str) -> npt.NDArray[np.bool_]:
        """Tell for each image whether a model (or `ensemble`) labels it right, (N,)."""
        return np.equal(self.predictions[name], self.targets)

    def by_class(self, name: str) -> dict[int, tuple[int, int]]:
        """Return for each label how many of its images are labelled right, and how many it has."""
        is_correct = self.is_correct(name)
        return {
            target: (int(is_correct[of_class].sum()), int(of_class.sum()))
            for target in np.unique(self.targets).tolist()
            for of_class in [self.targets == target]
        }

    def p_value(self, first: str, second: str) -> float:
        """Return McNemar's p-value for the difference between two models (see `statistics`)."""
        correct_first, correct_second = self.is_correct(first), self.is_correct(second)
        return mcnemar(
            int((correct_first & ~correct_second).sum()),
            int((correct_second & ~correct_first).sum()),
        )


def evaluate(
    models: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    *,
    context: Distributed | None = None,
    ensemble: bool | Collection[str] = False,
    amp: torch.dtype | None = None,
    advance: Advance = unheard,
) -> Evaluation:
    """Score models in one pass over the images; each batch is decoded once for all of them.

    The models run in evaluation mode, without gradients; their modes are restored.

    Args:
        models: Models on one device, by name.
        batches: This rank's share of the images; every image is in one batch of one rank.
        context: The processes that share the images; None for this one alone.
        ensemble: Whether to score an ensemble of all models, too; or the names of its members.
        amp: dtype of mixed precision; None for full precision.
        advance: Called with the number of images after each batch of this rank.

    Returns:
        The scores, the same on every rank.

    Raises:
        ModelError: A model's logits contain NaN or Inf; the error names the model.
        DataError: There are no images, an image came twice, or a model has no output for a label.
    """
    predictors = {name: module_predictor(model, amp=amp) for name, model in models.items()}
    return score_predictors(
        predictors, batches, context=context, ensemble=ensemble, advance=advance
    )


def module_predictor(module: nn.Module, *, amp: torch.dtype | None = None) -> Predictor:
    """Return the predictor that runs a module in evaluation mode."""

    def predict(batch: Batch) -> torch.Tensor:
        device = batch.images.device
        with (
            _evaluation_mode(module),
            torch.no_grad(),
            clear_memory_errors(device),
            # Left after each batch: autocast keeps copies of the weights until it ends.
            torch.autocast(device.type, dtype=amp, enabled=amp is not None),
        ):
            logits = module(batch.images)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits)
            raise ModelError(
                f"{type(module).__name__}: expected logits of shape (images, classes), found"
                f" {found}"
            )
        return logits

    return predict


@contextlib.contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def score_predictors(
    predictors: Mapping[str, Predictor],
    batches: Iterable[Batch],
    *,
    context: Distributed | None = None,
    ensemble: bool | Collection[str] = False,
    advance: Advance = unheard,
) -> Evaluation:
    """Score predictors in one pass over the batches; see `evaluate`."""
    if ENSEMBLE in predictors:
        raise ValueError(f"a model cannot be named {ENSEMBLE!r}: that is the ensemble's name")
    if isinstance(ensemble, bool):
        ensemble = predictors if ensemble else ()
    members = [name for name in predictors if name in ensemble]
    scorer = None
    for batch in batches:
        context = context or Distributed(device=batch.images.device)
        scorer = scorer or _Scorer(predictors, members=members, context=context)
        scorer.add(batch)
        advance(len(batch.targets))
    context = context or Distributed(device=torch.device("cpu"))
    scorer = scorer or _Scorer(predictors, members=members, context=context)
    return scorer.evaluation()


class _Scorer:
    """What one rank adds up during the pass."""

    def __init__(
        self, predictors: Mapping[str, Predictor], *, members: list[str], context: Distributed
    ) -> None:
        self._predictors = predictors
        self._context = context
        self._device = float64_device(context.device)
        self._tallies = {name: Tally(device=self._device) for name in predictors}
        self._ensemble: EnsembleTally | None = None
        if members:
            others = [name for name in predictors if name not in members]
            self._ensemble = EnsembleTally(members, others=others, device=self._device)
            self._tallies[ENSEMBLE] = self._ensemble.tally
        # Rows: position in the set, label, then the label that each tally counted.
        self._table = [torch.empty(2 + len(self._tallies), 0, dtype=torch.int64)]

    def add(self, batch: Batch) -> None:
        """Run every predictor on a batch and add up what comes out."""
        if len(batch.targets) == 0:
            return
        indices, targets = batch.indices.to(self._device), batch.targets.to(self._device)
        largest_target = int(targets.max())
        rows = [indices, targets]
        log_probabilities = {}
        has_nan = []
        for name, predict in self._predictors.items():
            outputs = predict(batch).to(self._device)
            if largest_target >= outputs.shape[1]:
                raise DataError(
                    f"{name}: an image has label {largest_target}, but the model has only"
                    f" {outputs.shape[1]} outputs; check that these images belong to this model"
                )
            log_softmax = F.log_softmax(outputs.double(), dim=1)
            has_nan.append(log_softmax.isnan().any())
            rows.append(self._tallies[name].add(outputs, log_softmax, targets))
            if self._ensemble is not None:
                log_probabilities[name] = log_softmax
        # One wait for the device per batch, not one per model.
        for name, is_bad in zip(self._predictors, torch.stack(has_nan).tolist(), strict=True):
            if is_bad:
                raise ModelError(
                    f"{name}: its logits contain NaN or Inf: its weights or BatchNorm statistics"
                    " are broken, or mixed precision overflows; try --amp off"
                )
        if self._ensemble is not None:
            rows.append(self._ensemble.add(log_probabilities, targets))
        self._table.append(torch.stack(rows).cpu())

    def evaluation(self) -> Evaluation:
        """Put together what the ranks have added up; all ranks must call this."""
        indices, targets, *rows = self._gather_table()
        predictions = dict(zip(self._tallies, rows, strict=True))
        n_samples = len(indices)
        scores = {
            name: tally.score(
                n_samples=n_samples,
                n_correct=int(np.equal(predictions[name], targets).sum()),
                context=self._context,
            )
            for name, tally in self._tallies.items()
        }
        has_ensemble = self._ensemble is not None
        return Evaluation(
            scores={name: scores[name] for name in self._predictors},
            ensemble=scores[ENSEMBLE] if has_ensemble else None,
            agreements=self._ensemble.agreements(n_samples=n_samples, context=self._context)
            if self._ensemble is not None
            else (),
            indices=indices,
            targets=targets,
            predictions=predictions,
        )

    def _gather_table(self) -> npt.NDArray[np.int64]:
        """Return the rows of all ranks together, in the order of the images."""
        mine = torch.cat(self._table, dim=1).numpy()
        table = np.concatenate(self._context.gather(mine), axis=1)
        table = table[:, np.argsort(table[0], kind="stable")]
        if table.shape[1] == 0:
            raise DataError("there are no images to evaluate on")
        repeated = table[0][1:][np.diff(table[0]) == 0]
        if len(repeated) > 0:
            raise DataError(
                f"{len(repeated)} images came more than once, the first at position {repeated[0]};"
                " every image must be in one batch of one rank"
            )
        return table
