"""Where the records of scores go; a failure to write them never loses the scores."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swa_tools.cli.output import notice
from swa_tools.errors import OutputError, SwaToolsError

if TYPE_CHECKING:
    from swa_tools.records import Record


def check_results(results: Path | None) -> None:
    """Check before the work that the file of `--results` can be written.

    Raises:
        OutputError: It cannot.
    """
    if results is None:
        return
    if results.is_dir():
        raise OutputError(f"{results}: cannot write results: this is a folder; name a file")
    if not results.parent.is_dir():
        raise OutputError(
            f"{results}: cannot write results: there is no folder {results.parent}; create it, or"
            " name another file"
        )
    if not os.access(results if results.exists() else results.parent, os.W_OK):
        raise OutputError(f"{results}: cannot write results: no permission; name another file")


@contextlib.contextmanager
def recording(
    records: "Iterable[Record]", results: Path | None, *, paths: Sequence[Path]
) -> Iterator[None]:
    """Append records to a file; the block prints the scores even if that fails.

    Args:
        records: The records of what was scored.
        results: The file of `--results`; None for that of the run that all checkpoints come from.
            There a failure is only a notice: not everybody may write into other people's runs.
        paths: The checkpoints.

    Raises:
        SwaToolsError: The file of `--results` cannot be written; raised after the block.
    """
    from swa_tools.records import append_records
    from swa_tools.run_directory import common_run

    run = common_run(paths)
    file = results or (run.results if run is not None else None)
    failure = None
    if file is not None:
        try:
            append_records(file, records)
        except SwaToolsError as error:
            failure = error
    yield
    if failure is not None and results is not None:
        raise failure
    if failure is not None:
        notice(f"{failure}; these scores were not recorded; name another file with --results FILE")
