"""What `swa-tools demo` trains, and how; every number with its reason.

The search for these settings used other seeds than the figures in the README
(tests/benchmarks/bench_demo.py).
"""

import dataclasses
from pathlib import Path

from swa_tools.training.options import FinetuneOptions
from swa_tools.training.schedule_options import ScheduleOptions

MODEL = "timm/test_resnet"
"""A ResNet of 0.4 million weights with 15 BatchNorm layers: an epoch takes less than a second."""

IMAGE_SIZE = 32
"""The digits have 8 × 8 pixels, of which the network's strides would leave none."""

N_TRAIN = 300
"""Few, so that there is something to gain and 1,497 images are left to measure the gain on."""

BATCH_SIZE = 20
"""15 noisy steps per epoch: SWA averages out this noise."""

MIN_CROP_AREA = 0.25
"""Strong crops, so that there is something to learn until the end: with 0.5, conventional SGD
reached 96.8 % in 80 epochs, and the average no more."""

BUDGET_EPOCHS = 60
START_EPOCHS = 45
"""Three quarters of the budget (section 3.2)."""

SWA_EPOCHS = BUDGET_EPOCHS - START_EPOCHS

LR_SGD = 0.05
"""The best for conventional SGD: with 0.025, 0.05 and 0.1 it reached 94.9, 95.6 and 95.2 % (mean of
four seeds that are not those of the README's figures)."""

LR_SWA = 0.05
"""Constant, with a capture after each epoch (section 3.1), and as high as the start's highest rate,
so that SGD keeps exploring: with 0.03 the average reached 96.1 %, with this rate 96.3 % (the same
seeds)."""

VALIDATE_EPOCHS, SWA_EVERY = 5, 3
"""Distance between the points in the picture: of conventional SGD in epochs, and of the running
average in captures."""

RUNS = ("start", "sgd", "swa")
"""Folders of the runs: the start, the control that finishes it, and SWA."""


def demo_runs(output: Path, *, seed: int, force: bool) -> tuple[tuple[str, FinetuneOptions], ...]:
    """Return a title and the options for each of `RUNS`; the last two continue the first.

    Args:
        output: Folder of the images and the runs.
        seed: Seed of all three runs.
        force: Whether earlier runs are replaced.
    """
    start = FinetuneOptions(
        model=MODEL,
        image_size=IMAGE_SIZE,
        pretrained=False,
        new_head=True,
        data=output / "images",
        output=output / RUNS[0],
        epochs=START_EPOCHS,
        batch_size=BATCH_SIZE,
        min_crop_area=MIN_CROP_AREA,
        schedule=ScheduleOptions(schedule="anneal", lr_max=LR_SGD, budget_epochs=BUDGET_EPOCHS),
        workers=0,  # for images this small a worker costs more than it saves
        validate_every=f"{VALIDATE_EPOCHS}epochs",
        log_every=1,
        seed=seed,
        force=force,
    )
    sgd = dataclasses.replace(
        start,
        model=None,
        image_size=None,
        new_head=False,
        from_run=start.output,
        output=output / RUNS[1],
        epochs=SWA_EPOCHS,
        schedule=dataclasses.replace(start.schedule, start_epoch=START_EPOCHS),
    )
    swa = dataclasses.replace(
        sgd,
        output=output / RUNS[2],
        schedule=ScheduleOptions(schedule="constant", lr_max=LR_SWA),
        validate_every="cycle",
        swa_online=True,  # for the picture: the running average, scored at some of the captures
        swa_every=SWA_EVERY,
    )
    return (
        (f"conventional SGD, stopped at {START_EPOCHS} of {BUDGET_EPOCHS} epochs", start),
        (f"the control: conventional SGD for the remaining {SWA_EPOCHS} epochs", sgd),
        (f"SWA instead: {SWA_EPOCHS} epochs at a constant rate, a capture after each", swa),
    )
