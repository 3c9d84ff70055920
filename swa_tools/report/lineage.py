"""What `run.json` says about a run, and about the runs that it continues."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from swa_tools.errors import SwaToolsError
from swa_tools.records import Record
from swa_tools.run_directory import RunDirectory, options_in
from swa_tools.run_files import START


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The run from whose end another run started (`finetune --from`).

    Attributes:
        n_epochs: Its own length up to that end, in epochs; None if unknown.
        start_digest: Digest of the weights that it started from; None if unknown.
        options: Its options of `finetune`; empty if unknown.
        earlier: The run that it continued itself; None if it continued none.
    """

    n_epochs: float | None = None
    start_digest: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    earlier: "Earlier | None" = None

    @property
    def epochs_in_all(self) -> float | None:
        """Its length plus that of all runs before it, in epochs; None if any is unknown."""
        before = 0.0 if self.earlier is None else self.earlier.epochs_in_all
        return None if before is None or self.n_epochs is None else before + self.n_epochs

    @property
    def origin(self) -> str | None:
        """Digest of the weights that the first of the runs started from."""
        return self.start_digest if self.earlier is None else self.earlier.origin


def start_digest(records: Iterable[Record]) -> str | None:
    """Return the digest of the weights that a run started from, from its records."""
    digests = (record.digest for record in records if record.checkpoint == START)
    return next((digest for digest in digests if digest is not None), None)


def earlier_of(
    folder: Path,
    description: dict[str, Any],
    *,
    start: str | None,
    others: Sequence[Path] = (),
    seen: frozenset[Path] = frozenset(),
) -> Earlier | None:
    """Return the run that another run continues; None if it continues none.

    `run.json` describes the earlier run under `earlier`. If it does not, the earlier run's folder
    is looked for where it was and next to the later one; it counts if its end is the later one's
    start.

    Args:
        folder: The later run's folder.
        description: Its `run.json`.
        start: Digest of the weights that it starts from; None if unknown.
        others: Further folders that may be the earlier run.
        seen: Folders that were looked at already.
    """
    from_run = options_in(description).get("from_run")
    if not isinstance(from_run, str) or not from_run:
        return None
    if isinstance(description.get("earlier"), dict):
        return _parse(description["earlier"])
    name = Path(from_run).name
    seen |= {folder.resolve()}
    for one in (Path(from_run), folder.parent / name, *(p for p in others if p.name == name)):
        found = None if one.resolve() in seen else _read(one, end=start, seen=seen)
        if found is not None:
            return found
    return Earlier()


def _parse(document: dict[str, Any]) -> Earlier:
    n_epochs, start = document.get("n_epochs"), document.get("start_digest")
    before = document.get("earlier")
    return Earlier(
        n_epochs=float(n_epochs) if isinstance(n_epochs, int | float) else None,
        start_digest=start if isinstance(start, str) else None,
        options=options_in(document),
        earlier=_parse(before) if isinstance(before, dict) else None,
    )


def _read(folder: Path, *, end: str | None, seen: frozenset[Path]) -> Earlier | None:
    """Read the run in a folder, if there is one and it ended with the given weights."""
    try:
        description = RunDirectory(folder).read_description()
        records = RunDirectory(folder).read_metrics()
    except SwaToolsError:
        return None
    lengths = [record.epoch for record in records if record.epoch is not None]
    ends = {r.digest: r.epoch for r in records if r.digest is not None and r.epoch is not None}
    n_epochs = ends.get(end) if end is not None and ends else max(lengths, default=None)
    if n_epochs is None:
        return None
    start = start_digest(records)
    return Earlier(
        n_epochs=n_epochs,
        start_digest=start,
        options=options_in(description),
        earlier=earlier_of(folder, description, start=start, seen=seen),
    )
