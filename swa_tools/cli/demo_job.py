"""What `swa-tools demo` does: data, three runs, an average, scores, a picture."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swa_tools.cli.computing import computing
from swa_tools.cli.output import notice
from swa_tools.cli.pictures import save_picture
from swa_tools.cli.run_progress import watch_run
from swa_tools.errors import OutputError, SwaToolsError
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.schedule_options import ScheduleOptions

if TYPE_CHECKING:
    from swa_tools.distributed import Distributed
    from swa_tools.evaluation import CheckpointScores

MODEL = "timm/lcnet_035"
IMAGE_SIZE = 32
N_TRAIN = 900
BATCH_SIZE = 50
MIN_CROP_AREA = 0.5
BUDGET_EPOCHS = 32
START_EPOCHS = 24
SWA_EPOCHS = BUDGET_EPOCHS - START_EPOCHS
LR_SGD = 0.1
LR_MAX, LR_MIN = 0.05, 0.005


@dataclasses.dataclass(frozen=True, slots=True)
class DemoRow:
    """A line of the final table.

    Attributes:
        name: Which weights.
        epochs: Training that they cost in all.
        top1: Percent, on the validation images.
        nll: Mean negative log-likelihood, in nats.
    """

    name: str
    epochs: float
    top1: float
    nll: float


@dataclasses.dataclass(frozen=True, slots=True)
class DemoResult:
    """What came out.

    Attributes:
        rows: The final table.
        n_samples: Validation images.
        p_value: Of McNemar's test, the average against conventional SGD.
        picture: Learning rate and accuracy over the run.
    """

    rows: tuple[DemoRow, ...]
    n_samples: int
    p_value: float
    picture: Path

    def row(self, name: str) -> DemoRow:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)


def run_demo(output: Path, *, seed: int = 0, force: bool = False) -> DemoResult:
    """Go the whole way in a folder.

    Args:
        output: The folder; it gets `images/`, the runs `start/`, `sgd/` and `swa/`, the averages
            `stale.safetensors` and `average.safetensors`, and `accuracy.png`.
        seed: Of the split of the images, the new weights and the order of the training.
        force: Whether the files of an earlier demo are replaced.

    Raises:
        SwaToolsError: scikit-learn is missing, or a stage fails.
    """
    from swa_tools.training import finetune

    if output.exists() and any(output.iterdir()) and not force:
        raise OutputError(
            f"{output}: it exists already and is not empty; choose another folder with -o, or give"
            " --force"
        )
    images = output / "images"
    write_digits(images, seed=seed)
    start = FinetuneOptions(
        model=MODEL,
        image_size=IMAGE_SIZE,
        pretrained=False,
        new_head=True,
        data=images,
        output=output / "start",
        epochs=START_EPOCHS,
        batch_size=BATCH_SIZE,
        min_crop_area=MIN_CROP_AREA,
        schedule=ScheduleOptions(schedule="anneal", lr_max=LR_SGD, budget_epochs=BUDGET_EPOCHS),
        workers=0,  # for images this small a worker costs more than it brings
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
        output=output / "sgd",
        epochs=SWA_EPOCHS,
        schedule=dataclasses.replace(start.schedule, start_epoch=START_EPOCHS),
    )
    swa = dataclasses.replace(
        sgd,
        output=output / "swa",
        schedule=ScheduleOptions(lr_max=LR_MAX, lr_min=LR_MIN),
        validate_every="6steps",  # for the picture: accuracy inside the cycles, as in Figure 2
    )
    with computing("cpu") as context, _one_thread():
        for title, options in (
            (f"1. conventional SGD, stopped at {START_EPOCHS} of {BUDGET_EPOCHS} epochs", start),
            (f"2. the control: the other {SWA_EPOCHS} epochs", sgd),
            (f"3. SWA: {SWA_EPOCHS} cycles of one epoch instead", swa),
        ):
            notice(title)
            with watch_run(context) as listener:
                finetune(options, context=context, listener=listener)
        notice("4. average, recompute BatchNorm, evaluate")
        return _finish(output, swa=swa, force=force, context=context)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: work as small as this is slower on several."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def write_digits(folder: Path, *, seed: int) -> None:
    """Write scikit-learn's digits as images, `train/` and `val/` with a folder per digit.

    There are 1,797 of them, 8 × 8 grey pixels each, enlarged to 32 × 32.

    Raises:
        SwaToolsError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SwaToolsError(
            "the demo's images come with scikit-learn, which is not installed; try:"
            " pip install 'swa-tools[demo]'"
        ) from error
    from PIL import Image

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    for position, number in enumerate(order):
        split, other = ("train", "val") if position < N_TRAIN else ("val", "train")
        name = f"{digits.target[number]}/{number:04d}.png"
        (folder / other / name).unlink(missing_ok=True)  # of an earlier demo with another seed
        path = folder / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = (digits.images[number] * (255 / 16)).round().astype(np.uint8)
        enlarged = Image.fromarray(grey).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        enlarged.convert("RGB").save(path)


def _finish(
    output: Path, *, swa: FinetuneOptions, force: bool, context: "Distributed"
) -> DemoResult:
    from swa_tools.averaging import AverageOptions, average_checkpoints
    from swa_tools.batchnorm import BnOptions
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.data import open_images
    from swa_tools.evaluation import EvaluationOptions, evaluate_checkpoints
    from swa_tools.records import append_records
    from swa_tools.report import run_picture
    from swa_tools.run_directory import RunDirectory
    from swa_tools.selection import average_and_score

    images, run = output / "images", RunDirectory(swa.output)
    captures = find_checkpoints([swa.output])
    train, val = open_images(images / "train"), open_images(images / "val")
    stale, average = output / "stale.safetensors", output / "average.safetensors"
    files = AverageOptions(force=force)
    average_checkpoints(captures, stale, options=files)
    scoring = EvaluationOptions(workers=0)
    ready = average_and_score(
        captures,
        average,
        train=train,
        val=val,
        average=files,
        bn=BnOptions(workers=0, seed=swa.seed),
        evaluation=scoring,
        context=context,
    )
    control = find_checkpoints([output / "sgd"])[-1]
    others = evaluate_checkpoints(
        [run.start, control, stale, average],
        val,
        options=dataclasses.replace(scoring, allow_stale_bn=True),
        context=context,
    )
    members = evaluate_checkpoints(
        captures, val, options=dataclasses.replace(scoring, ensemble=True), context=context
    )
    command = f"swa-tools demo --seed {swa.seed}"
    records = [] if ready.scores is None else ready.scores.records(split="val", command=command)[:1]
    append_records(run.results, records)
    picture = output / "accuracy.png"
    save_picture(run_picture([*run.read_metrics(), *records]), picture, force=force)
    return DemoResult(
        rows=tuple(_rows(others, members)),
        n_samples=len(val),
        p_value=_p_value(others, average.name, control.name),
        picture=picture,
    )


def _rows(others: "CheckpointScores", members: "CheckpointScores") -> Iterator[DemoRow]:
    start, control, stale, average = (one.score for one in others.checkpoints)
    yield DemoRow("start", START_EPOCHS, start.top1, start.nll)
    yield DemoRow("conventional SGD", BUDGET_EPOCHS, control.top1, control.nll)
    for number, capture in enumerate(members.checkpoints, start=1):
        score = capture.score
        yield DemoRow(f"minimum of cycle {number}", START_EPOCHS + number, score.top1, score.nll)
    yield DemoRow("average, BatchNorm stale", BUDGET_EPOCHS, stale.top1, stale.nll)
    yield DemoRow("average", BUDGET_EPOCHS, average.top1, average.nll)
    ensemble = members.evaluation.ensemble
    if ensemble is not None:
        yield DemoRow("ensemble of the minima", BUDGET_EPOCHS, ensemble.top1, ensemble.nll)


def _p_value(scores: "CheckpointScores", first: str, second: str) -> float:
    from swa_tools.evaluation import mcnemar

    one, other = (scores.evaluation.is_correct(name) for name in (first, second))
    return mcnemar(int((one & ~other).sum()), int((other & ~one).sum()))
