import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

WORKER = textwrap.dedent("""
    import importlib.util, sys, torch
    from swa_tools.distributed import distributed

    file, name, folder = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("functions_of_a_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with distributed("cpu") as context:
        result = getattr(module, name)(context)
        torch.save(result, f"{folder}/{context.rank}.pt")
""")


@pytest.fixture
def real_data():
    folder = os.environ.get("SWA_TOOLS_DATA")
    if not folder:
        pytest.skip("SWA_TOOLS_DATA does not name the real images and weights")
    return Path(folder)


@pytest.fixture
def on_ranks(tmp_path):
    """Call a module-level function of the test file under torchrun; return each rank's result."""

    def run(function, *, world_size=2):
        import torch

        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        arguments = [script, function.__code__.co_filename, function.__name__, tmp_path]
        finished = subprocess.run(
            [sys.executable, *launcher, str(world_size), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert finished.returncode == 0, finished.stderr
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(world_size)]

    return run
