"""What should BatchNorm be recomputed on, how, and on how many images?

Prints top-1, nll and calibration error of the average of a run's captures, with McNemar's p against
the default. The statistics are averaged ("stale"), those of the last checkpoint, or recomputed: on
the training view (the run's own, and crops from 8 % of the image), on the evaluation view, by the
other estimators, and as the authors do. Give runs that differ only in their seeds together:

    python examples/bn_ablation.py run-0 run-1 run-2 --data imagenet
"""

import argparse
import copy
import dataclasses
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swa_tools.averaging import average_checkpoints
from swa_tools.batchnorm import BnOptions, batchnorm_layers, conditions_of, recompute
from swa_tools.checkpoints import find_checkpoints
from swa_tools.data import (
    ImageSet,
    ImageSource,
    PassOptions,
    evaluation_loader,
    evaluation_view,
    map_to_outputs,
    open_split,
    training_view,
)
from swa_tools.distributed import single_process
from swa_tools.evaluation import Evaluation, evaluate
from swa_tools.models import BuiltModel, ModelChoice, load_checkpoint

OWN, EVALUATION = "training view", "evaluation view"
SMALL_CROPS = "crops from 0.08"
AUTHORS = "the authors' procedure"


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run, or quoted glob of checkpoints")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--samples", type=int, nargs="+", default=[256, 1000, 4000, 10**9])
    parser.add_argument("--batch-size", type=int, help="default: the run's, at least 64")
    parser.add_argument("--workers", type=int, help="processes that decode images")
    parser.add_argument("--model", help="for files that do not name their model")
    parser.add_argument(
        "--image-size", type=int, help="input size for evaluation; default: the run's"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON for a picture: `swa-tools report` draws RUN/bn-ablation.json",
    )
    return parser.parse_args()


def load_average(paths: list[Path], choice: ModelChoice) -> tuple[BuiltModel, Any]:
    """Return the average of the checkpoints, with stale statistics, and its metadata."""
    with tempfile.TemporaryDirectory() as folder:
        average = Path(folder) / "average.safetensors"
        average_checkpoints(paths, average)
        return load_checkpoint(average, choice)


def with_statistics_of(average: nn.Module, last: nn.Module) -> nn.Module:
    """Return the averaged weights with the statistics of the last checkpoint."""
    module = copy.deepcopy(average)
    theirs = batchnorm_layers(last)
    for name, layer in batchnorm_layers(module).items():
        layer.running_mean.copy_(theirs[name].running_mean)
        layer.running_var.copy_(theirs[name].running_var)
    return module


def ways(
    built: BuiltModel, metadata: Any, sizes: list[int], batch_size: int | None
) -> Iterator[tuple[str, BnOptions, Any]]:
    """Yield the name, options and conditions of each recompute; the default comes last."""
    options = BnOptions(batch_size=batch_size)
    own = conditions_of(options, metadata, built.preprocessing)
    evaluation = dataclasses.replace(own, view=evaluation_view(built.preprocessing))
    # The crops of a run at another size keep that size.
    crops = dataclasses.replace(training_view(built.preprocessing), size=own.view.size)
    few = [size for size in sizes if size <= 4000]
    at_most = dataclasses.replace(options, n_samples=max(few or sizes[:1]))
    if crops != own.view:
        yield SMALL_CROPS, at_most, dataclasses.replace(own, view=crops)
    for estimator in ("batch-mean", "sample-weighted"):
        yield estimator, dataclasses.replace(at_most, estimator=estimator), own
    as_authors = dataclasses.replace(at_most, estimator="sample-weighted", train_mode=True)
    yield AUTHORS, as_authors, own
    for title, conditions in ((EVALUATION, evaluation), (OWN, own)):
        for size in sizes:
            yield title, dataclasses.replace(options, n_samples=size), conditions


def measure(run: str, train: ImageSet, val: ImageSet, arguments: argparse.Namespace) -> Evaluation:
    """Return the scores of a run's average with every kind of statistics, as `name, images`."""
    context = single_process()
    paths = find_checkpoints([run])
    choice = ModelChoice(model=arguments.model, image_size=arguments.image_size)
    built, metadata = load_average(paths, choice)
    average, last = (
        module.to(context.device, memory_format=torch.channels_last)
        for module in (built.module, load_checkpoint(paths[-1], choice)[0].module)
    )
    models = {
        "last checkpoint": last,
        "stale": average,
        "of the last checkpoint": with_statistics_of(average, last),
    }
    sizes = sorted({min(size, len(train)) for size in arguments.samples})
    for title, options, conditions in ways(built, metadata, sizes, arguments.batch_size):
        module = copy.deepcopy(average)
        recompute(
            [module],
            train,
            preprocessing=built.preprocessing,
            options=dataclasses.replace(options, workers=arguments.workers),
            conditions=conditions,
            context=context,
        )
        models[f"{title}, {options.n_samples:,}"] = module
    loader = evaluation_loader(
        map_to_outputs(val, built.info),
        built.preprocessing,
        options=PassOptions(workers=arguments.workers),
        context=context,
    )
    return evaluate(models, loader)


def print_table(results: list[Evaluation], n_images: int) -> None:
    """Print a line for each kind of statistics: means over the runs, and the spread of top-1."""
    default = list(results[0].scores)[-1]
    seeds = f", {len(results)} runs: mean ± standard deviation" if len(results) > 1 else ""
    print(f"{n_images:,} images of val{seeds}")
    print(f"{'statistics, images':32} {'top-1 %':>14} {'nll':>8} {'ece %':>6}  p against the last")
    for name in results[0].scores:
        scores = [result.scores[name] for result in results]
        top1 = f"{statistics.mean(score.top1 for score in scores):.2f}"
        if len(results) > 1:
            top1 += f" ± {statistics.stdev(score.top1 for score in scores):.2f}"
        nll = statistics.mean(score.nll for score in scores)
        ece = statistics.mean(score.ece for score in scores)
        p_values = "".join(f" {result.p_value(name, default):.3f}" for result in results)
        print(f"{name:32} {top1:>14} {nll:8.4f} {ece:6.2f} {p_values}")


def write_json(path: Path, results: list[Evaluation]) -> None:
    """Write mean top-1 by view and number of images, and by name for everything else."""
    curves: dict[str, list[tuple[int, float]]] = {OWN: [], EVALUATION: []}
    baselines = {}
    scores: dict[str, list[dict[str, Any]]] = {}
    default = list(results[0].scores)[-1]
    for name in results[0].scores:
        top1 = statistics.mean(result.scores[name].top1 for result in results)
        title, _, size = name.partition(", ")
        if title in curves:
            curves[title].append((int(size.replace(",", "")), top1))
        else:
            baselines[name] = top1
        scores[name] = [
            {**dataclasses.asdict(one.scores[name]), "p_value": one.p_value(name, default)}
            for one in results
        ]
    command = shlex.join(["python", *sys.argv])
    document = {"command": command, "curves": curves, "baselines": baselines, "scores": scores}
    path.write_text(json.dumps(document, indent=2))


def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    train, val = (open_split(split, ImageSource(data=arguments.data)) for split in ("train", "val"))
    results = [measure(run, train, val, arguments) for run in arguments.runs]
    print_table(results, len(val))
    if arguments.output is not None:
        write_json(arguments.output, results)


if __name__ == "__main__":
    main()
