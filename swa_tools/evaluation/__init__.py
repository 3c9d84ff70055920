"""Evaluation: any number of models, ensembles and files in one pass over the images."""

from swa_tools.evaluation.ensemble import ENSEMBLE, Agreement
from swa_tools.evaluation.evaluate import Evaluation, Predictor, evaluate, score_predictors
from swa_tools.evaluation.metrics import Score
from swa_tools.evaluation.model_bank import ModelBank
from swa_tools.evaluation.results import CheckpointScores, ScoredCheckpoint
from swa_tools.evaluation.scoring import EvaluationOptions, evaluate_checkpoints
from swa_tools.statistics import mcnemar, wilson_interval

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
