import numpy as np
import pytest

from swa_tools.averaging import AverageOptions, average_checkpoints
from swa_tools.checkpoints import write_checkpoint


@pytest.fixture
def checkpoints(tmp_path):
    """Write one safetensors file for each dictionary of arrays; return the paths."""

    def write(*states, metadata=None, folder="in"):
        (tmp_path / folder).mkdir(exist_ok=True)
        paths = []
        for number, arrays in enumerate(states):
            path = tmp_path / folder / f"{number:03d}.safetensors"
            write_checkpoint(path, arrays, metadata, force=True)
            paths.append(path)
        return paths

    return write


@pytest.fixture
def average(tmp_path, read_all):
    """Average files and read the result back."""

    def run(paths, **options):
        output = tmp_path / "out.safetensors"
        average_checkpoints(paths, output, options=AverageOptions(force=True, **options))
        return read_all(output)

    return run


@pytest.fixture
def states():
    """Make a few states of one small model with BatchNorm."""

    def make(n, *, seed=0):
        generator = np.random.default_rng(seed)
        return [
            {
                "conv.weight": generator.normal(size=(8, 3, 3, 3)).astype(np.float32),
                "bn.weight": generator.normal(size=8).astype(np.float32),
                "bn.running_mean": generator.normal(size=8).astype(np.float32),
                "bn.running_var": generator.uniform(0.1, 2, 8).astype(np.float32),
                "bn.num_batches_tracked": np.array(100 * k),
                "index": np.arange(5, dtype=np.int32),
                "mask": np.array([True, False]),
                "fc.weight": generator.normal(size=(300, 300)).astype(np.float16),
            }
            for k in range(1, n + 1)
        ]

    return make
