"""Where the records of scores go, and that scores are never lost over them."""

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
    """Tell before the work whether the file of `--results` could be written.

    Raises:
        OutputError: It could not.
    """
    if results is None:
        return
    if results.is_dir():
        raise OutputError(f"{results}: cannot write results there: it is a folder; name a file")
    if not results.parent.is_dir():
        raise OutputError(f"{results}: cannot write results: there is no folder {results.parent}")
    if not os.access(results if results.exists() else results.parent, os.W_OK):
        raise OutputError(f"{results}: cannot write results: no permission")


@contextlib.contextmanager
def recording(
    records: "Iterable[Record]", results: Path | None, *, paths: Sequence[Path]
) -> Iterator[None]:
    """Append records to a file; whatever comes of it, the block prints the scores.

    Args:
        records: What was scored.
        results: The file of `--results`; None for that of the run that all checkpoints are from,
            where a failure is a notice: not everybody may write into other people's runs.
        paths: The checkpoints.

    Raises:
        SwaToolsError: The file of `--results` cannot be written; after the block.
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
        notice(f"{failure}; these scores are not recorded (--results FILE names another file)")
