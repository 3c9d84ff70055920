from pathlib import Path

import pytest

from swa_tools.distributed import single_process
from swa_tools.errors import TrainingError
from swa_tools.training.description import Caller
from swa_tools.training.loop import finetune
from swa_tools.training.options import FinetuneOptions, OptimizerOptions
from swa_tools.training.preparation import preview
from swa_tools.training.run_plan import Interval, parse_interval, plan_run


def make(**changes):
    sizes = {"n_images": 1_281_167, "steps_per_epoch": 5004, "world_size": 1}
    sizes |= {name: changes.pop(name) for name in sizes.keys() & changes.keys()}
    return plan_run(FinetuneOptions(output=Path("run"), **changes), **sizes)


def test_the_papers_imagenet_recipe():
    plan = make(world_size=8)
    assert plan.n_steps == 50040
    assert list(plan.captures) == [5004 * cycle for cycle in range(1, 11)]
    assert plan.piece_size == 32
    assert plan.epoch(5004 * 3) == 3
    assert plan.incomplete_cycle is None
    document = plan.to_dict()
    assert document["captures"][1]["lr"] == 0.00001
    assert document["captures"][1]["cycle"] == 2


def test_fractions_of_epochs_are_rounded_to_steps():
    assert make(epochs=0.75).n_steps == 3753
    assert make(epochs=1 / 3, steps_per_epoch=10).n_steps == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500", Interval(steps=500)),
        ("500steps", Interval(steps=500)),
        ("1 step", Interval(steps=1)),
        ("0.25epochs", Interval(steps=25)),
        ("2epochs", Interval(steps=200)),
        ("0.5min", Interval(minutes=0.5)),
        ("never", Interval()),
        ("cycle", Interval()),
    ],
)
def test_intervals_are_read(text, expected):
    assert parse_interval(text, flag="--x", steps_per_epoch=100, minutes=True) == expected


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "1.2.3", "5parsecs", "0.001epochs", "nan"])
def test_other_intervals_are_refused(text):
    with pytest.raises(TrainingError, match="--x .*: expected an interval of at least one step"):
        parse_interval(text, flag="--x", steps_per_epoch=100, minutes=True)


def test_an_interval_happens_after_its_steps():
    assert [step for step in range(1, 10) if Interval(steps=3).includes(step)] == [3, 6, 9]
    assert not Interval().includes(3)


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
