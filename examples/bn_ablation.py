"""Does recomputing BatchNorm help an average, and how many images does it need?

Prints the top-1 of the average of some checkpoints with its averaged ("stale") statistics, with
those of the last checkpoint, and with statistics recomputed by each estimator on more and more
training images:

    python examples/bn_ablation.py run --data imagenet
"""

import argparse
import copy
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from swa_tools.averaging import average_checkpoints
from swa_tools.batchnorm import BnOptions, batchnorm_layers, recompute
from swa_tools.checkpoints import find_checkpoints
from swa_tools.data import evaluation_loader, map_to_outputs, open_split
from swa_tools.distributed import single_process
from swa_tools.evaluation import Evaluation, evaluate, wilson_interval
from swa_tools.models import BuiltModel, load_checkpoint

ESTIMATORS = ("batch-mean", "sample-weighted", "population")


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="a run, or files")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--samples", type=int, nargs="+", default=[256, 1000, 4000, 10**9])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that decode images")
    parser.add_argument("--augment", action="store_true", help="training augmentation")
    parser.add_argument("--model", help="for files that do not say their model")
    parser.add_argument("--image-size", type=int)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON for a picture: `swa-tools report` draws RUN/bn-ablation.json",
    )
    return parser.parse_args()


def load_average(paths: Sequence[Path], **choice: Any) -> BuiltModel:
    """Return the average of the checkpoints, its statistics stale."""
    with tempfile.TemporaryDirectory() as folder:
        average = Path(folder) / "average.safetensors"
        average_checkpoints(paths, average)
        built, _ = load_checkpoint(average, **choice)
    return built


def with_statistics_of(average: nn.Module, last: nn.Module) -> nn.Module:
    """Return the averaged weights with the statistics of the last checkpoint."""
    module = copy.deepcopy(average)
    theirs = batchnorm_layers(last)
    for name, layer in batchnorm_layers(module).items():
        layer.running_mean.copy_(theirs[name].running_mean)
        layer.running_var.copy_(theirs[name].running_var)
    return module


def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    context = single_process()
    paths = find_checkpoints(arguments.checkpoints)
    choice = {"model": arguments.model, "image_size": arguments.image_size}
    built = load_average(paths, **choice)
    average = built.module.to(context.device)
    last = load_checkpoint(paths[-1], **choice)[0].module.to(context.device)
    train = open_split("train", data=arguments.data)
    val = open_split("val", data=arguments.data)

    models = {"stale": average, "of the last checkpoint": with_statistics_of(average, last)}
    measured = {}
    for n_samples in sorted({min(n, len(train)) for n in arguments.samples}):
        for estimator in ESTIMATORS:
            name = f"{estimator}, {n_samples:,} images"
            measured[name] = estimator, n_samples
            models[name] = copy.deepcopy(average)
            options = BnOptions(
                estimator=estimator,
                n_samples=n_samples,
                augment=arguments.augment,
                batch_size=arguments.batch_size,
                seed=arguments.seed,
                workers=arguments.workers,
            )
            recompute(
                [models[name]],
                train,
                preprocessing=built.preprocessing,
                options=options,
                context=context,
            )

    batches = evaluation_loader(
        map_to_outputs(val, built.info),
        built.preprocessing,
        batch_size=arguments.batch_size,
        device=context.device,
        workers=arguments.workers,
    )
    result = evaluate(models, batches)
    reference = name  # the last: population, on most images
    print(f"The average of {len(paths)} checkpoints on {len(val):,} images of val")
    print(f"{'statistics':32} {'top-1 %':>8} {'95 %':>15} {'nll':>8} {'p':>7}")
    for name, score in result.scores.items():
        low, high = wilson_interval(score.n_correct, score.n_samples)
        interval = f"{low:.2f} – {high:.2f}"
        p = result.p_value(name, reference)
        print(f"{name:32} {score.top1:8.2f} {interval:>15} {score.nll:8.4f} {p:7.3f}")
    print(f"p: McNemar's exact test against '{reference}'.")
    if arguments.output is not None:
        write_json(arguments.output, result, measured)


def write_json(path: Path, result: Evaluation, measured: dict[str, tuple[str, int]]) -> None:
    """Write the top-1 with a recompute by estimator and images, and without one by name."""
    curves: dict[str, list[tuple[int, float]]] = {estimator: [] for estimator in ESTIMATORS}
    baselines = {}
    for name, score in result.scores.items():
        if name in measured:
            estimator, n_samples = measured[name]
            curves[estimator].append((n_samples, score.top1))
        else:
            baselines[name] = score.top1
    command = shlex.join(["python", *sys.argv])
    document = {"command": command, "curves": curves, "baselines": baselines}
    path.write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
