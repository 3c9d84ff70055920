"""The averages of the first and of the last n checkpoints, for every n at once."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from swa_tools.averaging.average import (
    AverageOptions,
    AverageResult,
    Output,
    open_all,
    write_averages,
)
from swa_tools.averaging.describe import describe
from swa_tools.averaging.kernel import convert
from swa_tools.averaging.plan import AveragePlan, plan_average
from swa_tools.averaging.weighting import Uniform
from swa_tools.errors import CheckpointError, OutputError


def average_running(
    paths: Sequence[str | Path], folder: str | Path, *, options: AverageOptions | None = None
) -> list[AverageResult]:
    """Write the averages of the first 1, 2, …, N checkpoints and of the last 1, 2, …, N−1.

    Every byte is read once. The files are `first-001.safetensors` … and `last-001.safetensors` …
    in the folder, which is made if it is missing.

    Args:
        paths: The checkpoints, in their order.
        folder: Where to write.
        options: See `average_checkpoints`.

    Returns:
        The results of `first-…`, then those of `last-…`.

    Raises:
        CheckpointError, OutputError: As `average_checkpoints`.
    """
    folder, options = Path(folder), options or AverageOptions()
    with open_all(paths, entry=options.entry) as checkpoints:
        plan = plan_average(checkpoints, Uniform(), dtype=options.dtype)
        n = len(checkpoints)
        named = [(f"first-{k:03d}", range(k)) for k in range(1, n + 1)]
        named += [(f"last-{k:03d}", range(n - k, n)) for k in range(1, n)]
        outputs = [
            Output(folder / f"{name}.safetensors", describe(_part(plan, sources)), sources)
            for name, sources in named
        ]
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
        return write_averages(plan, outputs, options, running=True)


def _part(plan: AveragePlan, sources: range) -> AveragePlan:
    chosen = slice(sources.start, sources.stop)
    return dataclasses.replace(
        plan, checkpoints=plan.checkpoints[chosen], coefficients=plan.coefficients[chosen]
    )


def iterate_running(
    paths: Sequence[str | Path], *, reverse: bool = False, entry: str | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the average of the first 1, 2, …, N checkpoints, reading every byte once.

    For those who score the averages instead of keeping them: `sweep` puts each into a model.

    Args:
        paths: The checkpoints, in their order.
        reverse: Whether to yield the averages of the last 1, 2, …, N instead.
        entry: Which weights to take from pickled files that hold several.

    Yields:
        Arrays by name, the caller's to keep. In memory are the sums, in float64, and one of these.

    Raises:
        CheckpointError: As `average_checkpoints`.
    """
    with open_all(paths, entry=entry) as checkpoints:
        plan = plan_average(checkpoints, Uniform())
        sums = {
            tensor.name: np.zeros(tensor.n_elements * (2 if tensor.output_dtype == "C64" else 1))
            for tensor in plan.tensors
            if tensor.action == "average"
        }
        for n, checkpoint in enumerate(checkpoints[::-1] if reverse else checkpoints, start=1):
            averages = {}
            for tensor in plan.tensors:
                if tensor.action == "average":
                    array = checkpoint.read(tensor.name)
                    flat = array.reshape(-1)
                    numbers = flat.view(np.float32) if tensor.output_dtype == "C64" else flat
                    sums[tensor.name] += numbers.astype(np.float64)
                    if not np.isfinite(sums[tensor.name]).all():
                        raise CheckpointError(
                            f"{checkpoint.path}: there is NaN or Inf in the tensor"
                            f" {tensor.name!r}; leave this checkpoint out"
                        )
                    mean = convert(sums[tensor.name] / n, tensor.output_dtype)
                    averages[tensor.name] = mean.view(array.dtype).reshape(array.shape)
                else:
                    newest = checkpoints[-1] if reverse else checkpoint
                    averages[tensor.name] = newest.read(tensor.name)
            yield averages
