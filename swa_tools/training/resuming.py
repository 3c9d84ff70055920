"""Whether a run begins, or goes on with the one that is in its folder."""

import os
import socket
from typing import Any

from swa_tools.errors import TrainingError
from swa_tools.run_directory import RunDirectory
from swa_tools.training.options import FinetuneOptions

_NO_RUN_ID = ("", "none")
"""What torchrun calls a job without --rdzv-id or --standalone."""


def is_resumed(options: FinetuneOptions, directory: RunDirectory) -> bool:
    """Tell whether to go on with the run that is in the directory; runs on rank 0.

    Raises:
        SwaToolsError: There is none, it has nothing to go on from, or it would be overwritten.
    """
    if options.resume and not directory.exists():
        raise TrainingError(
            f"{directory.path}: there is no run to resume: expected {directory.resume.name} in it"
        )
    may_go_on = options.resume or options.resume_if_exists or _is_restart(directory)
    if not (may_go_on and directory.exists()):
        directory.check_free(force=options.force)
        return False
    if directory.resume.exists():
        return True
    if directory.has_results() and not options.force:
        raise TrainingError(
            f"{directory.resume}: there is no point to resume from, but there are results of the"
            " run; --force begins it again and removes them"
        )
    # It was killed before its first step: it begins again.
    return False


def launcher() -> dict[str, str] | None:
    """Return who started this process, the same in all attempts of a job; None without torchrun.

    Of rank 0: `run.json` tells it, so that an attempt knows its own run.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return None
    return {"run_id": run_id, "agent": f"{socket.gethostname()}/{os.getppid()}"}


def _is_restart(directory: RunDirectory) -> bool:
    """Tell whether torchrun has started this process again after a failure in the same run."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    found: Any = directory.readable_description().get("launcher")
    own = launcher()
    if own is None or not isinstance(found, dict) or found.get("run_id") != own["run_id"]:
        return False
    return own["run_id"] not in _NO_RUN_ID or found.get("agent") == own["agent"]
