"""Evaluation: any number of models, ensembles and files in one pass over the images.

The names are imported when they are first used: `swa_tools.evaluation.options` needs no torch.
"""

from typing import TYPE_CHECKING

from swa_tools.lazy_names import lazy_names

if TYPE_CHECKING:
    from swa_tools.evaluation.checkpoint_scores import CheckpointScores, ScoredCheckpoint
    from swa_tools.evaluation.ensemble import ENSEMBLE, Agreement
    from swa_tools.evaluation.metrics import Score
    from swa_tools.evaluation.model_bank import ModelBank
    from swa_tools.evaluation.one_pass import Evaluation, Predictor, evaluate, score_predictors
    from swa_tools.evaluation.options import EvaluationOptions
    from swa_tools.evaluation.scoring import evaluate_checkpoints

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "ensemble": ("Agreement", "ENSEMBLE"),
        "metrics": ("Score",),
        "model_bank": ("ModelBank",),
        "one_pass": ("Evaluation", "Predictor", "evaluate", "score_predictors"),
        "options": ("EvaluationOptions",),
        "checkpoint_scores": ("CheckpointScores", "ScoredCheckpoint"),
        "scoring": ("evaluate_checkpoints",),
    },
)
