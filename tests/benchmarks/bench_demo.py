"""`swa-tools demo` over many seeds: does SWA do there what it is shown for?

The bar, over 10 seeds: the average is above conventional SGD in the mean (a 95 % t-interval of the
paired differences excludes 0) and above the last capture in 8 of 10; the recomputed BatchNorm
statistics are not worse than the averaged ones in mean negative log-likelihood.
"""

import argparse
import contextlib
import io
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import stats

from swa_tools.cli.demo_job import CONTROL, run_demo

COLUMNS = (
    *("start", "control", "last capture", "best capture"),
    *("stale", "average", "ensemble", "nll stale", "nll average", "p", "CPU s"),
)
BASELINES = ("control", "last capture", "best capture", "ensemble", "stale")
WINS = 0.8


def scores_of(seed):
    """One line of the table."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        result = run_demo(Path(folder) / "demo", seed=seed)
    stale, average = result.row("average, BatchNorm stale"), result.row("average")
    captures = [row.top1 for row in result.captures]
    return dict(
        zip(
            COLUMNS,
            (
                *(result.row("start").top1, result.row(CONTROL).top1, captures[-1], max(captures)),
                *(stale.top1, average.top1, result.row("ensemble of the captures").top1),
                *(stale.nll, average.nll, result.comparisons[0].p_value),
                time.process_time() - start,
            ),
            strict=True,
        )
    )


def line(title, values):
    cells = [f"{value:{len(name)}.{_digits(name)}f}" for name, value in values.items()]
    print(f"{title:<6}  " + "  ".join(cells), flush=True)


def _digits(name):
    return 4 if name.startswith("nll") else 1 if name == "CPU s" else 3 if name == "p" else 2


def difference(scores, name):
    """Print the paired differences of the average to another; return their mean and interval."""
    values = np.array([one["average"] - one[name] for one in scores])
    mean = values.mean()
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    wins, ties = int((values > 1e-9).sum()), int((abs(values) <= 1e-9).sum())
    print(
        f"average − {name:<12}  {mean:+.2f} points, 95 % interval {mean - half:+.2f} to"
        f" {mean + half:+.2f}; above in {wins} of {len(values)}, equal in {ties}"
    )
    return mean - half, wins


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="Seeds 0 … N−1.")
    parser.add_argument("--first", type=int, default=0, help="The first seed, instead of 0.")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("an interval needs two seeds at least")
    print("seed    " + "  ".join(COLUMNS))
    scores = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        scores.append(scores_of(seed))
        line(seed, scores[-1])
    columns = {name: np.array([one[name] for one in scores]) for name in COLUMNS}
    line("mean", {name: values.mean() for name, values in columns.items()})
    line("± std", {name: values.std(ddof=1) for name, values in columns.items()})
    compared = {name: difference(scores, name) for name in BASELINES}
    bar = {
        "the average above conventional SGD, 0 outside of the interval": compared["control"][0] > 0,
        f"above the last capture in {WINS:.0%} of the seeds": compared["last capture"][1]
        >= WINS * len(scores),
        "nll with BatchNorm recomputed not above that with averaged statistics": columns[
            "nll average"
        ].mean()
        <= columns["nll stale"].mean(),
    }
    for goal, is_met in bar.items():
        print(f"{'met   ' if is_met else 'MISSED'}  {goal}")
    return 0 if all(bar.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
