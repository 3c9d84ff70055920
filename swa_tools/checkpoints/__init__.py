"""Files of tensors: read any, write safetensors. No torch."""

from pathlib import Path

from swa_tools.checkpoints.discovery import find_checkpoints
from swa_tools.checkpoints.header import TensorInfo
from swa_tools.checkpoints.metadata import (
    AverageInfo,
    BnInfo,
    CheckpointMetadata,
    DataInfo,
    ModelInfo,
    Preprocessing,
    SourceInfo,
    TrainingInfo,
    ViewInfo,
)
from swa_tools.checkpoints.reader import Checkpoint, open_checkpoint
from swa_tools.checkpoints.weights_output import (
    check_weights_output,
    is_torch_name,
    weights_output,
    write_checkpoint,
)
from swa_tools.checkpoints.writer import (
    SafetensorsWriter,
    atomic_output,
    check_output,
    file_metadata,
)


def read_metadata(path: str | Path) -> CheckpointMetadata | None:
    """Return what swa-tools wrote into a checkpoint; None for somebody else's file."""
    with open_checkpoint(path) as checkpoint:
        return checkpoint.metadata


def content_digest(path: str | Path, *, entry: str | None = None) -> str:
    """Return the digest of a checkpoint's tensors (see `checkpoints.digest`); reads all of it."""
    with open_checkpoint(path, entry=entry) as checkpoint:
        return checkpoint.digest()
