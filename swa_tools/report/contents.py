"""What a report says: for each run its table, pictures, facts and commands."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from swa_tools.measurements import Numbers
from swa_tools.report.attachments import Attachments, read_attachments
from swa_tools.report.facts import facts
from swa_tools.report.figures.bn_ablation import bn_ablation_picture
from swa_tools.report.figures.comparison import comparison_picture
from swa_tools.report.figures.plane import plane_picture
from swa_tools.report.figures.ray import ray_picture
from swa_tools.report.figures.reliability import reliability_picture
from swa_tools.report.figures.run_curves import run_picture
from swa_tools.report.figures.segment import segment_picture
from swa_tools.report.figures.sweep import sweep_picture
from swa_tools.report.figures.trajectory import trajectory_picture
from swa_tools.report.measurement_tables import tables_of
from swa_tools.report.picture import Picture
from swa_tools.report.runs import RunData, kind_of, windows_of
from swa_tools.report.tables import (
    MOST_CAPTURES,
    Table,
    comparison_summary,
    comparison_table,
    provenance_table,
    score_table,
    summary,
)

PICTURES = {
    "plane": plane_picture,
    "rays": ray_picture,
    "segment": segment_picture,
    "trajectory": trajectory_picture,
}
"""The function that draws each kind of measurement."""

BUILT_IN = ("run", "sweep", "bn-ablation", "reliability")
"""Names of pictures that a picture of a file may not take."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report.

    Attributes:
        title: The part's heading.
        lead: Sentences that sum up the results.
        tables: The main tables.
        more_tables: Further tables with their titles, folded away on the page.
        pictures: Pictures, by a name for their files.
        picture_tables: The numbers behind the pictures, by the same names.
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
        facts: What the run was, as pairs of a title and a text.
        commands: Pairs of what a command makes and the command.
    """

    facts: tuple[tuple[str, str], ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


def overview(runs: Sequence[RunData]) -> Section:
    """Return the part before the runs: their comparison if there are several."""
    if len(runs) == 1:
        return Section(title="Overview")
    return Section(
        title="Comparison",
        lead=(comparison_summary(runs),),
        tables=(comparison_table(runs),),
        pictures={"comparison": comparison_picture(runs)},
    )


def run_section(run: RunData, runs: Sequence[RunData]) -> RunSection:
    """Return the part on one run, with every picture for which there are data.

    Args:
        run: The run.
        runs: All runs of the report.
    """
    table, attachments = score_table(run, runs), read_attachments(run.path)
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
        pictures=pictures_of(run, attachments),
        picture_tables={name: tables_of(one) for name, one in numbers_by_name(run).items()},
        facts=tuple(facts(run)),
        commands=tuple(commands_of(run, attachments)),
    )


def pictures_of(run: RunData, attachments: Attachments) -> dict[str, Picture]:
    """Return every picture for which there are data, by a name for its file."""
    pictures = {"run": run_picture(run.records)}
    kinds = collections.Counter(numbers.kind for numbers in run.numbers)
    for name, numbers in numbers_by_name(run).items():
        if numbers.kind in PICTURES:
            picture = PICTURES[numbers.kind](numbers)
            if kinds[numbers.kind] > 1:
                title = f"{picture.title}: {numbers.path.relative_to(run.path)}"
                picture = dataclasses.replace(picture, title=title)
            pictures[name] = picture
    windows = windows_of(run)
    if windows:
        pictures["sweep"] = sweep_picture(windows)
    ablation = attachments.ablation
    if ablation is not None:
        pictures["bn-ablation"] = bn_ablation_picture(ablation.curves, ablation.baselines)
    if attachments.logits:
        pairs = {name: (one.logits, one.targets) for name, one in attachments.logits.items()}
        pictures["reliability"] = reliability_picture(pairs)
    return pictures


def numbers_by_name(run: RunData) -> dict[str, Numbers]:
    """Return a run's measurements, each under a name that none of its other pictures has.

    The name is the file's path within the run. If another picture already has it, the kind or a
    number is appended; capitals make no difference, as on many file systems.
    """
    named: dict[str, Numbers] = {}
    taken = {name.casefold() for name in BUILT_IN}
    for numbers in run.numbers:
        stem = "-".join(numbers.path.relative_to(run.path).with_suffix("").parts)
        further = (f"{stem}-{numbers.kind}-{i}" for i in itertools.count(2))
        candidates = itertools.chain((stem, f"{stem}-{numbers.kind}"), further)
        name = next(name for name in candidates if name.casefold() not in taken)
        taken.add(name.casefold())
        named[name] = numbers
    return named


def commands_of(run: RunData, attachments: Attachments) -> list[tuple[str, str]]:
    """Return the commands that made the run and its numbers, each once."""
    made: list[tuple[str | None, str]] = [
        (run.description.get("command"), "the run, its start and captures"),
        *((score.record.command, score.name) for score in run.scores()),
        *((record.command, "sweep") for record in run.records if kind_of(record) == "sweep"),
        *((n.description.get("command"), str(n.path.relative_to(run.path))) for n in run.numbers),
    ]
    if attachments.ablation is not None:
        made.append((attachments.ablation.command, "BatchNorm recompute"))
    made += [(one.command, f"logits of {name}") for name, one in attachments.logits.items()]
    commands: dict[str, list[str]] = {}
    for command, what in made:
        if isinstance(command, str) and command:
            names = commands.setdefault(command, [])
            if what not in names:
                names.append(what)
    return [(_listed(names), command) for command, names in commands.items()]


def _listed(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]} … {names[-1]} ({len(names)} lines)"
    return ", ".join(names)
