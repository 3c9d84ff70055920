import json

import pytest

from swa_tools.checkpoints import open_checkpoint, write_checkpoint


@pytest.fixture
def small_run(run_with_captures):
    """A run whose options are known, with a start and its captures around it."""
    options = {"weight_decay": 0.01, "optimizer": "sgd", "seed": 0}
    (run_with_captures / "run.json").write_text(json.dumps({"options": options}))
    with open_checkpoint(run_with_captures / "average.safetensors") as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    write_checkpoint(run_with_captures / "start.safetensors", tensors, None)
    return run_with_captures
