"""What a report says: for each run its table, its pictures, what it was, and its commands."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from swa_tools.errors import SwaToolsError
from swa_tools.report.comparison_figure import comparison_picture
from swa_tools.report.line_figures import ray_picture, segment_picture
from swa_tools.report.number_tables import tables_of
from swa_tools.report.picture import Picture
from swa_tools.report.plane_figure import plane_picture
from swa_tools.report.run_figure import run_picture
from swa_tools.report.runs import RunData, replicates, windows_of
from swa_tools.report.score_figures import (
    bn_ablation_picture,
    reliability_picture,
    sweep_picture,
)
from swa_tools.report.tables import (
    MOST_CAPTURES,
    Table,
    comparison_table,
    facts,
    provenance_table,
    score_table,
    summary,
)
from swa_tools.report.trajectory_figure import trajectory_picture

PICTURES = {
    "plane": plane_picture,
    "rays": ray_picture,
    "segment": segment_picture,
    "trajectory": trajectory_picture,
}
"""By the kind of the numbers."""

ABLATION_FILE = "bn-ablation.json"
"""Top-1 by estimator over images (`curves`) and without a recompute (`baselines`)."""

LOGITS_PATTERNS = ("*.logits.safetensors", "*/*.logits.safetensors")
"""Where `evaluate --save-logits` may have written, below the run."""

MOST_RELIABILITIES = 4
"""More lines than these cannot be told apart."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report.

    Attributes:
        title: Of the part.
        lead: Sentences that say what came out.
        tables: Numbers.
        more_tables: By title, folded away on the page.
        pictures: To look at, by a name for their files.
        picture_tables: The numbers behind pictures, by the same names.
    """

    title: str
    lead: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    more_tables: tuple[tuple[str, Table], ...] = ()
    pictures: Mapping[str, Picture] = dataclasses.field(default_factory=dict)
    picture_tables: Mapping[str, Sequence[Table]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunSection(Section):
    """The part on one run.

    Attributes:
        facts: What the run was: titles and texts.
        commands: What each is for, and the command.
    """

    facts: tuple[tuple[str, str], ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


def overview(runs: Sequence[RunData]) -> Section:
    """Return what stands before the runs: where there are several, their comparison."""
    if len(runs) == 1:
        return Section(title="Overview")
    alone = [group[0] for group in replicates(runs) if len(group) == 1]
    return Section(
        title="Comparison",
        lead=tuple(f"{run.name}: {summary(run, runs)}" for run in alone if run.n_captures != 1),
        tables=(comparison_table(runs),),
        pictures={"comparison": comparison_picture(runs)},
    )


def run_section(run: RunData, runs: Sequence[RunData]) -> RunSection:
    """Return the part on one run, with every picture that there are data for.

    Args:
        run: The run.
        runs: All runs of the report.
    """
    table = score_table(run, runs)
    n_captures = sum(score.kind == "checkpoint" for score in run.scores())
    more = []
    if n_captures > MOST_CAPTURES:
        more.append((f"All {n_captures} captures", score_table(run, runs, whole=True)))
    if table.rows:
        more.append(("What was scored: digests and BatchNorm", provenance_table(run)))
    return RunSection(
        title=run.name,
        lead=(summary(run, runs),),
        tables=(table,) if table.rows else (),
        more_tables=tuple(more),
        pictures=pictures_of(run),
        picture_tables={one.path.stem: tables_of(one) for one in run.numbers},
        facts=tuple(facts(run)),
        commands=tuple(commands_of(run)),
    )


def pictures_of(run: RunData) -> dict[str, Picture]:
    """Return all pictures that there are data for, by the name of a file."""
    pictures = {"run": run_picture(run.records)}
    for numbers in run.numbers:
        if numbers.kind in PICTURES:
            pictures[numbers.path.stem] = PICTURES[numbers.kind](numbers)
    windows = windows_of(run)
    if windows:
        pictures["sweep"] = sweep_picture(windows)
    ablation = run.path / ABLATION_FILE
    if ablation.exists():
        pictures["bn-ablation"] = bn_ablation_picture(*read_ablation(ablation))
    logits = read_logits(run.path)
    if logits:
        pictures["reliability"] = reliability_picture(logits)
    return pictures


def commands_of(run: RunData) -> list[tuple[str, str]]:
    """Return how the run and each number of its table were made; a command stands once."""
    commands: dict[str, list[str]] = {}
    command = run.description.get("command")
    if isinstance(command, str):
        commands.setdefault(command, []).append("the run, its start and captures")
    for score in run.scores():
        if score.record.command:
            commands.setdefault(score.record.command, []).append(score.name)
    for numbers in run.numbers:
        if isinstance(numbers.description.get("command"), str):
            commands.setdefault(numbers.description["command"], []).append(numbers.path.name)
    return [(_listed(names), command) for command, names in commands.items()]


def _listed(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]} … {names[-1]} ({len(names)} lines)"
    return ", ".join(names)


def read_ablation(
    path: Path,
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """Return (images, top-1) by estimator, and top-1 by name without a recompute.

    Raises:
        SwaToolsError: The file is broken.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        curves = {
            str(name): [(float(images), float(top1)) for images, top1 in points]
            for name, points in document["curves"].items()
            if points
        }
        baselines = {str(name): float(top1) for name, top1 in document["baselines"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SwaToolsError(f"{path}: cannot read this ablation: {error}") from error
    return curves, baselines


def read_logits(folder: Path) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Return logits and labels that `evaluate --save-logits` left in a run, the newest few.

    Raises:
        SwaToolsError: A file is broken.
    """
    files = {path for pattern in LOGITS_PATTERNS for path in folder.glob(pattern)}
    newest = sorted(files, key=lambda path: (path.stat().st_mtime, path.name))[-MOST_RELIABILITIES:]
    found = {}
    for path in sorted(newest):
        # The name ends in a digest of what the logits depend on.
        name = path.name.removesuffix(".logits.safetensors").rpartition("-")[0]
        found[name] = _read_tensors(path)
    return found


def _read_tensors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return tensors["logits"], tensors["targets"]
    except (OSError, SafetensorError, KeyError) as error:
        raise SwaToolsError(f"{path}: cannot read these logits: {error}") from error
