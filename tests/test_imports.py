"""What importing the package costs, seen from a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "rich", "sklearn", "tensorboard")


@pytest.mark.parametrize(
    "module",
    [
        "swa_tools",
        "swa_tools.cli",
        "swa_tools.checkpoints",
        "swa_tools.averaging",
        "swa_tools.records",
        "swa_tools.report",
        "swa_tools.training.schedules",
    ],
)
def test_import_loads_no_heavy_library(module):
    script = f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
