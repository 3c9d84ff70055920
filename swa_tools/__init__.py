"""Stochastic Weight Averaging for pretrained timm and torchvision models.

The names below are imported when they are first used: `import swa_tools` alone imports no torch.
"""

from typing import TYPE_CHECKING

from swa_tools.lazy_names import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from swa_tools.averaging import AverageOptions, average_checkpoints, iterate_average
    from swa_tools.batchnorm import update_bn
    from swa_tools.checkpoints import find_checkpoints, open_checkpoint, write_checkpoint
    from swa_tools.errors import SwaToolsError
    from swa_tools.evaluation import evaluate
    from swa_tools.models import create_model, load_checkpoint

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "averaging": ("AverageOptions", "average_checkpoints", "iterate_average"),
        "batchnorm": ("update_bn",),
        "checkpoints": ("find_checkpoints", "open_checkpoint", "write_checkpoint"),
        "errors": ("SwaToolsError",),
        "evaluation": ("evaluate",),
        "models": ("create_model", "load_checkpoint"),
    },
)
