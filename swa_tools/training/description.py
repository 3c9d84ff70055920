"""What `run.json` says: everything needed to repeat a run, and where it ran."""

import dataclasses
import os
import platform
import shlex
import socket
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch

from swa_tools import __version__
from swa_tools.checkpoints import ModelInfo, content_digest
from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.run_directory import RunDirectory, options_in
from swa_tools.training.options import FinetuneOptions, recorded
from swa_tools.training.resume import ResumePoint
from swa_tools.training.run_plan import RunPlan

_LIBRARIES = ("torchvision", "timm", "numpy", "safetensors")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who fine-tunes, as far as the run needs to know.

    Attributes:
        command: The command that began the run; None for the command line of this process.
        options: The caller's own options that belong to the run; `run.json` lists them with the
            run's.
        needs_captures: Whether to refuse a run that will take no captures.
    """

    command: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs_captures: bool = False


def describe_run(
    options: FinetuneOptions,
    plan: RunPlan,
    *,
    info: ModelInfo,
    context: Distributed,
    caller: Caller,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the document of a run.

    `finetune --config` reads `options`. `launcher` lets a restarted attempt recognise its own run.
    `earlier` tells a report what came before. The rest is for people.

    Args:
        options: The options of the run.
        plan: The plan that follows from them.
        info: The model.
        context: The ranks.
        caller: Who fine-tunes.
        earlier: From `describe_earlier`, if the run continues another.
    """
    amp = amp_dtype(options.amp, context.device)
    started_by = launcher()
    return {
        "options": {**recorded(options), **caller.options},
        "command": shlex.join(sys.argv) if caller.command is None else caller.command,
        **({} if started_by is None else {"launcher": started_by}),
        **({} if earlier is None else {"earlier": earlier}),
        "resolved": {
            "device": str(context.device),
            "amp": "off" if amp is None else str(amp).removeprefix("torch."),
        },
        "model": {"name": info.name, "kwargs": info.kwargs, "num_classes": info.num_classes},
        "plan": plan.to_dict(),
        "versions": {
            "swa_tools": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
        "hardware": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "device": _device_name(context.device),
            "cores": os.cpu_count(),
            "world_size": context.world_size,
        },
        "torch_threads": torch.get_num_threads(),
    }


def describe_earlier(directory: RunDirectory, point: ResumePoint) -> dict[str, Any]:
    """Return what a run keeps about the run that it continues, which may be moved or removed later.

    Args:
        directory: The earlier run's directory.
        point: The earlier run's last resume point.
    """
    document = directory.readable_description()
    return {
        "n_epochs": point.step / int(point.settings["steps per epoch"]),
        "start_digest": content_digest(directory.start),
        "options": options_in(document),
        "earlier": document.get("earlier"),
    }


def launcher() -> dict[str, str] | None:
    """Return who started this process, the same in all attempts of a job; None without torchrun.

    `run.json` keeps rank 0's, so that a restarted attempt recognises its own run.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return None
    return {"run_id": run_id, "agent": f"{socket.gethostname()}/{os.getppid()}"}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
