"""What `swa-tools demo` does: images, three runs, an average, scores, a picture."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swa_tools.cli import demo_setting as setting
from swa_tools.cli.computing import computing
from swa_tools.cli.demo_setting import IMAGE_SIZE, RUNS, demo_runs
from swa_tools.cli.output import notice
from swa_tools.cli.pictures import save_picture
from swa_tools.cli.run_progress import watch_run
from swa_tools.errors import OutputError, SwaToolsError
from swa_tools.training.options import FinetuneOptions

if TYPE_CHECKING:
    from swa_tools.distributed import Distributed
    from swa_tools.evaluation import CheckpointScores

CONTROL, CAPTURE = "conventional SGD", "capture"


@dataclasses.dataclass(frozen=True, slots=True)
class DemoRow:
    """A line of the final table.

    Attributes:
        name: Which weights the line is about.
        epochs: Total number of epochs that they were trained for.
        top1: Top-1 in percent, on the validation images.
        nll: Mean negative log-likelihood, in nats.
    """

    name: str
    epochs: float
    top1: float
    nll: float


@dataclasses.dataclass(frozen=True, slots=True)
class DemoComparison:
    """The average compared with other weights on the same images.

    Attributes:
        name: The name of the other weights.
        difference: How far the average's top-1 is above theirs, in points; negative if below.
        p_value: p-value of McNemar's paired test.
    """

    name: str
    difference: float
    p_value: float


@dataclasses.dataclass(frozen=True, slots=True)
class DemoResult:
    """The results of a demo.

    Attributes:
        rows: The scores of all weights.
        comparisons: The average compared with conventional SGD, the last and the best capture. The
            best is chosen on these same images, which favours it.
        n_samples: Number of validation images.
        picture: The file with the picture of the accuracy over the epochs.
    """

    rows: tuple[DemoRow, ...]
    comparisons: tuple[DemoComparison, ...]
    n_samples: int
    picture: Path

    def row(self, name: str) -> DemoRow:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def captures(self) -> tuple[DemoRow, ...]:
        """The rows of the captures, in their order."""
        return tuple(row for row in self.rows if row.name.startswith(CAPTURE))


def run_demo(output: Path, *, seed: int = 0, force: bool = False) -> DemoResult:
    """Take all steps of the demo in a folder.

    Args:
        output: The folder; it gets `images/`, the runs `start/`, `sgd/` and `swa/`, the averages
            `stale.safetensors` and `average.safetensors`, and `accuracy.png`.
        seed: Seed of the split of the images, the new weights and the order of the training.
        force: Whether the files of an earlier demo are replaced.

    Raises:
        SwaToolsError: scikit-learn is missing, or a stage fails.
    """
    from swa_tools.training import finetune

    if output.exists() and any(output.iterdir()) and not force:
        raise OutputError(
            f"{output}: already exists and is not empty; choose another folder with -o, or give"
            " --force"
        )
    write_digits(output / "images", seed=seed)
    runs = demo_runs(output, seed=seed, force=force)
    with computing("cpu") as context, _one_thread():
        for number, (title, options) in enumerate(runs, start=1):
            notice(f"{number}. {title}")
            with watch_run(context) as listener:
                finetune(options, context=context, listener=listener)
        notice(f"{len(runs) + 1}. average, recompute BatchNorm, evaluate")
        return _finish(output, swa=runs[-1][1], force=force, context=context)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: work this small is slower on several."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def write_digits(folder: Path, *, seed: int) -> None:
    """Write scikit-learn's digits as images, into `train/` and `val/` with a folder per digit.

    There are 1,797 digits of 8 × 8 grey pixels, enlarged to 32 × 32.

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
        split, other = ("train", "val") if position < setting.N_TRAIN else ("val", "train")
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
    from swa_tools.run_directory import RunDirectory
    from swa_tools.selection import Setting, average_and_score

    images, run = output / "images", RunDirectory(swa.output)
    captures = find_checkpoints([swa.output])
    stale, average = output / "stale.safetensors", output / "average.safetensors"
    files = AverageOptions(force=force)
    scoring = EvaluationOptions(workers=0, ensemble=True, allow_stale_bn=True)
    average_checkpoints(captures, stale, options=files)
    average_and_score(
        captures,
        average,
        average=files,
        setting=Setting(
            train=open_images(images / "train"),
            bn=BnOptions(workers=0),
            evaluation=scoring,
            context=context,
        ),
        val=None,
    )
    control = find_checkpoints([output / "sgd"])[-1]
    scores = evaluate_checkpoints(
        [run.start, control, *captures, stale, average],
        open_images(images / "val"),
        options=scoring,
        context=context,
    )
    ready = [
        record
        for record in scores.records(split="val", command=f"swa-tools demo --seed {swa.seed}")
        if record.checkpoint == average.name
    ]
    append_records(run.results, ready)
    picture = output / "accuracy.png"
    _draw(output, picture, force=force)
    rows = tuple(_rows(scores))
    return DemoResult(
        rows=rows,
        comparisons=tuple(_comparisons(scores, rows)),
        n_samples=scores.checkpoints[0].score.n_samples,
        picture=picture,
    )


def _draw(output: Path, picture: Path, *, force: bool) -> None:
    from swa_tools.report.figures.demo import demo_curves, demo_picture
    from swa_tools.run_directory import RunDirectory

    start, sgd, swa = (RunDirectory(output / run).read_metrics() for run in RUNS)
    curves = demo_curves(start, sgd, swa, start_epochs=setting.START_EPOCHS)
    save_picture(demo_picture(curves), picture, force=force)


def _rows(scores: "CheckpointScores") -> Iterator[DemoRow]:
    start, control, *captures, stale, average = (one.score for one in scores.checkpoints)
    yield DemoRow("start", setting.START_EPOCHS, start.top1, start.nll)
    yield DemoRow(CONTROL, setting.BUDGET_EPOCHS, control.top1, control.nll)
    for number, one in enumerate(captures, start=1):
        yield DemoRow(f"{CAPTURE} {number}", setting.START_EPOCHS + number, one.top1, one.nll)
    yield DemoRow("average, BatchNorm stale", setting.BUDGET_EPOCHS, stale.top1, stale.nll)
    yield DemoRow("average", setting.BUDGET_EPOCHS, average.top1, average.nll)
    ensemble = scores.evaluation.ensemble
    if ensemble is not None:
        yield DemoRow(
            "ensemble of the captures", setting.BUDGET_EPOCHS, ensemble.top1, ensemble.nll
        )


def _comparisons(scores: "CheckpointScores", rows: Sequence[DemoRow]) -> Iterator[DemoComparison]:
    # The rows are in the order of the checkpoints; the ensemble's comes after them.
    names = [one.name for one in scores.checkpoints]
    captures = [number for number, row in enumerate(rows) if row.name.startswith(CAPTURE)]
    best = max(captures, key=lambda number: rows[number].top1)
    average = names[-1]
    for title, number in ((CONTROL, 1), ("last capture", captures[-1]), ("best capture", best)):
        difference = rows[len(names) - 1].top1 - rows[number].top1
        p_value = scores.evaluation.p_value(average, names[number])
        yield DemoComparison(title, difference, p_value)
