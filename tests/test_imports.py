"""What importing the package costs, seen from a fresh interpreter."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "rich", "sklearn", "tensorboard", "fsspec")


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


@pytest.mark.parametrize(
    "package",
    [
        "swa_tools",
        "swa_tools.batchnorm",
        "swa_tools.data",
        "swa_tools.evaluation",
        "swa_tools.models",
        "swa_tools.training",
    ],
)
def test_a_package_gives_every_name_that_it_tells_type_checkers(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name for node in block.body for alias in node.names}
    assert set(module.__all__) == told
    assert all(hasattr(module, name) for name in told)
    assert not hasattr(module, "no_such_name")
