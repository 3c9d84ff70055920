"""What `run.json` says: everything to run it again, and where it ran."""

import os
import platform
import shlex
import sys
from importlib import metadata
from typing import Any

import torch

from swa_tools import __version__
from swa_tools.checkpoints import ModelInfo
from swa_tools.distributed import Distributed
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.plan import RunPlan

_NOT_REPEATED = ("output", "force", "resume", "resume_if_exists")
"""Options that belong to one call and not to the run."""

_LIBRARIES = ("torchvision", "timm", "numpy", "safetensors")


def describe_run(
    options: FinetuneOptions, plan: RunPlan, *, info: ModelInfo, context: Distributed
) -> dict[str, Any]:
    """Return the document of a run.

    `options` is what `finetune --config` reads; the rest is for people.
    """
    repeated = {k: v for k, v in options.to_dict().items() if k not in _NOT_REPEATED}
    return {
        "options": repeated,
        "command": shlex.join(sys.argv),
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


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
