"""The scores of checkpoints, and their records."""

import dataclasses

from swa_tools.data import ImageSet
from swa_tools.evaluation.candidates import Candidate
from swa_tools.evaluation.ensemble import ENSEMBLE
from swa_tools.evaluation.metrics import Score
from swa_tools.evaluation.one_pass import Evaluation
from swa_tools.records import Record


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCheckpoint(Candidate):
    """A file and its score.

    Attributes:
        bn: State of its BatchNorm statistics, as in `BnInfo`.
        score: The file's score on the images.
        real: Share of images that get one of their ReaL labels, in percent; None if the images have
            no ReaL labels.
    """

    bn: str
    score: Score
    real: float | None

    def record(self, *, split: str, command: str | None) -> Record:
        """Return the record of the score, with the moment of training if the file says it.

        Args:
            split: `train` or `val`.
            command: How to reproduce the score.
        """
        training = self.metadata.training if self.metadata is not None else None
        about = Record(
            event="evaluation",
            checkpoint=self.path.name,
            digest=self.digest,
            kind=self.kind,
            bn=self.bn,
            split=split,
            epoch=None if training is None else training.epoch,
            step=None if training is None else training.step,
            cycle=None if training is None else training.cycle,
            lr=None if training is None else training.lr,
            command=command,
        )
        return self.score.record(about)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointScores:
    """The scores of several files on one set of images.

    Attributes:
        checkpoints: The scored files, in the order given; of files with the same tensors, only one.
        evaluation: Predictions and agreements, by the names of the checkpoints.
        images: The images, with the model's outputs as targets.
        n_skipped: Unreadable images that were left out.
        members: Names of the members of the ensemble; empty without one.
        ensemble_name: `FGE` if all members come from a triangular run, else `ensemble`.
        notices: What a user should know, one line each.
    """

    checkpoints: tuple[ScoredCheckpoint, ...]
    evaluation: Evaluation
    images: ImageSet
    n_skipped: int
    members: tuple[str, ...]
    ensemble_name: str
    notices: tuple[str, ...]

    def records(self, *, split: str, command: str | None) -> list[Record]:
        """Return one record per checkpoint, and one for the ensemble if there is one.

        Args:
            split: `train` or `val`.
            command: How to reproduce the scores.
        """
        records = [one.record(split=split, command=command) for one in self.checkpoints]
        ensemble = self.evaluation.ensemble
        if ensemble is not None:
            about = Record(
                event="evaluation", checkpoint=ENSEMBLE, kind=ENSEMBLE, split=split, command=command
            )
            records.append(ensemble.record(about))
        return records
