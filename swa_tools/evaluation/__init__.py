"""Evaluation: any number of models, ensembles and files in one pass over the images.

The names are imported when they are first used: `swa_tools.evaluation.options` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swa_tools.evaluation.ensemble import ENSEMBLE, Agreement
    from swa_tools.evaluation.metrics import Score
    from swa_tools.evaluation.model_bank import ModelBank
    from swa_tools.evaluation.one_pass import Evaluation, Predictor, evaluate, score_predictors
    from swa_tools.evaluation.options import EvaluationOptions
    from swa_tools.evaluation.results import CheckpointScores, ScoredCheckpoint
    from swa_tools.evaluation.scoring import evaluate_checkpoints
    from swa_tools.statistics import mcnemar, wilson_interval

_MODULES = {
    "Agreement": "evaluation.ensemble",
    "CheckpointScores": "evaluation.results",
    "ENSEMBLE": "evaluation.ensemble",
    "Evaluation": "evaluation.one_pass",
    "EvaluationOptions": "evaluation.options",
    "ModelBank": "evaluation.model_bank",
    "Predictor": "evaluation.one_pass",
    "Score": "evaluation.metrics",
    "ScoredCheckpoint": "evaluation.results",
    "evaluate": "evaluation.one_pass",
    "evaluate_checkpoints": "evaluation.scoring",
    "mcnemar": "statistics",
    "score_predictors": "evaluation.one_pass",
    "wilson_interval": "statistics",
}

__all__ = [
    "ENSEMBLE",
    "Agreement",
    "CheckpointScores",
    "Evaluation",
    "EvaluationOptions",
    "ModelBank",
    "Predictor",
    "Score",
    "ScoredCheckpoint",
    "evaluate",
    "evaluate_checkpoints",
    "mcnemar",
    "score_predictors",
    "wilson_interval",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'swa_tools.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swa_tools.{_MODULES[name]}"), name)
