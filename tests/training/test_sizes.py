from pathlib import Path

import pytest

from swa_tools.distributed import single_process
from swa_tools.training.description import Caller
from swa_tools.training.loop import finetune
from swa_tools.training.optimizer_options import OptimizerOptions
from swa_tools.training.setup import preview


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "optimizer": OptimizerOptions(optimizer="adamw")},
        {"swa_online": True, "keep_checkpoints": 1, "optimizer": OptimizerOptions(momentum=0)},
    ],
    ids=["plain", "ema", "online"],
)
def test_the_plan_tells_the_bytes_that_a_run_takes(options, changes):
    asked = options(epochs=3, **changes)
    _, sizes = preview(asked, context=single_process("cpu"), caller=Caller())
    run = finetune(asked).run
    found = {
        "captures_bytes": bytes_below(run / "checkpoints"),
        "ema_bytes": bytes_below(run / "ema"),
        "start_bytes": (run / "start.safetensors").stat().st_size,
        "average_bytes": (run / "swa.safetensors").stat().st_size if asked.swa_online else 0,
        "resume_bytes": (run / "resume.pt").stat().st_size,
    }
    for name, n_bytes in found.items():
        # Besides its tensors a file holds their names.
        assert getattr(sizes, name) <= n_bytes <= 1.2 * getattr(sizes, name), name
    assert sizes.total_bytes == sum(
        found_bytes
        for found_bytes in (
            sizes.captures_bytes,
            sizes.ema_bytes,
            sizes.start_bytes,
            sizes.average_bytes,
            2 * sizes.resume_bytes,
        )
    )
    assert sizes.to_dict()["n_kept"] == (1 if asked.swa_online else 3)
