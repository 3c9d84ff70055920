"""Which runs belong together: those that differ only in the seed, and a run and its controls."""

from collections.abc import Iterable, Sequence
from typing import Any

from swa_tools.options import declared
from swa_tools.report.lineage import Earlier
from swa_tools.report.runs import RunData
from swa_tools.training.options import FinetuneOptions, JobOptions

NOT_THE_EXPERIMENT = frozenset(
    one.name
    for options in (FinetuneOptions, JobOptions)
    for one in declared(options)
    if one.option.affects != "numbers"
)
"""Options that change how a run is computed, watched or stored, not what it is."""

_DEFAULTS = {one.name: one.default for one in declared(FinetuneOptions)}
"""What counts as set if a run's `run.json` is older than an option."""

NOT_COMPARED = NOT_THE_EXPERIMENT | {"seed", "checkpoint", "from_run"}
"""Where a run starts is compared separately: the weights at a path may have changed since."""


def replicates(runs: Sequence[RunData]) -> list[list[RunData]]:
    """Group runs that differ only in the seed; order the groups by their first runs.

    Runs of a group start from the same weights, or from weights that depend on the seed: random
    ones, or the ends of runs that again differ only in the seed.
    """
    groups: list[list[RunData]] = []
    for run in runs:
        group = next((group for group in groups if _same_experiment(group[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    result = []
    for group in groups:
        seeds = {run.options.get("seed") for run in group}
        result += [group] if len(seeds) == len(group) else [[run] for run in group]
    return sorted(result, key=lambda group: runs.index(group[0]))


def controls_of(run: RunData, runs: Iterable[RunData]) -> list[RunData]:
    """Return the runs that a run is compared with.

    They start from the same weights, take the same number of epochs, and save one checkpoint at
    their end. If a run continues another, the epochs of both count.
    """
    if run.n_captures < 2:
        return []
    return [other for other in runs if other.n_captures == 1 and _is_as_long(other, run)]


def _is_as_long(other: RunData, run: RunData) -> bool:
    if other.start_digest in (None, run.start_digest):
        return other.n_epochs == run.n_epochs
    known = other.origin is not None and other.epochs_in_all is not None
    return known and other.origin == run.origin and other.epochs_in_all == run.epochs_in_all


def _same_experiment(one: RunData | Earlier, other: RunData | Earlier) -> bool:
    # Runs whose options are unknown cannot be compared.
    return (
        bool(one.options)
        and _compared(one.options) == _compared(other.options)
        and _same_beginning(one, other)
    )


def _same_beginning(one: RunData | Earlier, other: RunData | Earlier) -> bool:
    if (one.earlier is None) != (other.earlier is None):
        return False
    if one.start_digest is not None and one.start_digest == other.start_digest:
        return True
    if one.earlier is None or other.earlier is None:
        return bool(one.options.get("checkpoint") == other.options.get("checkpoint"))
    return _same_experiment(one.earlier, other.earlier)


def _compared(options: dict[str, Any]) -> dict[str, Any]:
    known = {**_DEFAULTS, **options}
    return {name: value for name, value in known.items() if name not in NOT_COMPARED}
