"""How checkpoints are scored, as a person says it."""

import dataclasses
from pathlib import Path

from swa_tools.data.options import PassOptions
from swa_tools.models.choice import ModelChoice
from swa_tools.options import COUNT, option


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions(PassOptions, ModelChoice):
    """How checkpoints are scored, and which model they belong to where they do not say it.

    The ensemble is that of the captures of cycles if there are several, else of all ordinary
    checkpoints (no averages, no start of a run), or of all files if there is none.
    """

    ensemble: bool = option(
        False,
        help="Score the mean softmax of the captures (without any: of all files that are no"
        " averages), too; the others are compared with it.",
    )
    allow_stale_bn: bool = option(False, help="Score averages whose BatchNorm is stale.")
    save_logits: Path | None = option(
        None,
        help="Save the logits of each checkpoint there; use those that are there already.",
        metavar="DIR",
    )
    at_once: int = option(
        8,
        help="Checkpoints in memory at a time; the others are read again for each batch.",
        bounds=COUNT,
    )
    compile: bool = option(False, help="Run the network through torch.compile.", affects="bits")
