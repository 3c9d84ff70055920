"""How checkpoints are scored, as a person says it."""

import dataclasses
from pathlib import Path

from swa_tools.data.options import PassOptions
from swa_tools.models.choice import ModelChoice
from swa_tools.options import COUNT, option


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions(PassOptions, ModelChoice):
    """How checkpoints are scored, and which model they belong to where they do not say.

    The ensemble's members are the captures if there are several, else all ordinary checkpoints (no
    averages, no start of a run), or all files if there are none of these.
    """

    ensemble: bool = option(
        False,
        help="Also score the mean softmax of the captures (of all files that are not averages if"
        " there are no captures), and compare the other files with it.",
    )
    allow_stale_bn: bool = option(
        False, help="Score averages even if their BatchNorm statistics are stale."
    )
    save_logits: Path | None = option(
        None,
        help="Save each checkpoint's logits in this folder; reuse those that are already there.",
        metavar="DIR",
    )
    at_once: int = option(
        8,
        help="Checkpoints in memory at a time; the others are read again for each batch.",
        bounds=COUNT,
    )
    compile: bool = option(False, help="Run the network through torch.compile.", affects="bits")
