"""The errors that swa-tools raises on purpose.

Every message is one line that says what is wrong, in which file or tensor, what was expected and
found, and what to try. The command line prints it unchanged and exits with status 1; any other
exception that escapes is a bug.
"""


class SwaToolsError(Exception):
    """Base class of every error that a user can fix."""


class CheckpointError(SwaToolsError):
    """A checkpoint that cannot be read, or that does not belong with the others."""


class NoWeightsError(CheckpointError):
    """A file that can be read and holds no weights: an optimizer's, a log."""


class OutputError(SwaToolsError):
    """An output that cannot be written: it exists, the disk is full, the folder is read-only."""


class ModelError(SwaToolsError):
    """A model that is unknown, cannot be built, or does not fit a checkpoint."""


class DataError(SwaToolsError):
    """Images or labels that are missing, unreadable, or do not fit the model."""


class TrainingError(SwaToolsError):
    """A run that cannot start, continue, or be resumed."""


class OtherRankError(SwaToolsError):
    """An error on another rank, which reports it itself."""
