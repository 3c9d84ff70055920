"""What the files of a run are called, and which folder is a run.

This module imports nothing of ours: `checkpoints`, which finds a run's captures, and
`run_directory`, which has everything else about runs, both use it.
"""

import os
from pathlib import Path

DESCRIPTION = "run.json"
"""Every option as resolved, versions and hardware."""

START = "start.safetensors"
"""The starting weights, which are never taken for a capture."""

CAPTURES = "checkpoints"
"""The folder of the captures."""

EMA = "ema"
"""The folder of the moving averages (EMA), taken at the same moments."""

AVERAGE = "swa.safetensors"
"""The average of the captures, ready for use."""

METRICS = "metrics.jsonl"
"""The records of training and validation."""

RESULTS = "results.jsonl"
"""The records of everything scored later from this run."""

RESUME = "resume.pt"
"""The newest point to resume from."""

TENSORBOARD = "tensorboard"
"""The folder of the TensorBoard log, if one was asked for."""


def is_run(folder: Path) -> bool:
    """Tell whether a folder was written by `finetune`."""
    return os.path.isfile(folder / DESCRIPTION) and os.path.isdir(folder / CAPTURES)
