"""`swa-tools inspect`."""

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from swa_tools.cli.declared import options_of
from swa_tools.cli.output import notice, print_json, print_table
from swa_tools.cli.shared_options import OutputOptions, checkpoints_argument
from swa_tools.errors import CheckpointError

if TYPE_CHECKING:
    from swa_tools.checkpoints.inspection import Inspection, SourceCheck


@click.command(
    epilog="\b\nExample:\n"
    "  swa-tools inspect run/checkpoints/*.safetensors average.safetensors --verify"
)
@checkpoints_argument
@click.option("--entry", metavar="KEY", help="Which weights to take from a pickled file.")
@click.option("--digest", is_flag=True, help="Also compute content digests, which reads all bytes.")
@click.option(
    "--verify",
    is_flag=True,
    help="Compare the sources that averages name with the given files; exit with 1 if they differ.",
)
@options_of(OutputOptions, only=("as_json",))
def command(
    *, checkpoints: tuple[str, ...], entry: str | None, digest: bool, verify: bool, as_json: bool
) -> None:
    """Show what is in checkpoints, where they came from, and whether they belong together.

    Reads only headers, unless digests are asked for; safetensors need no torch.
    """
    from swa_tools.averaging import Uniform, open_all, plan_average
    from swa_tools.checkpoints import find_checkpoints
    from swa_tools.checkpoints.inspection import check_sources, inspect_checkpoint

    difference = None
    with open_all(find_checkpoints(checkpoints), entry=entry) as opened:
        inspections = [
            inspect_checkpoint(checkpoint, digest=digest or verify) for checkpoint in opened
        ]
        try:
            plan_average(opened, Uniform())
        except CheckpointError as error:
            difference = str(error)
    checks = check_sources(inspections) if verify else []
    if as_json:
        print_json(_document(inspections, checks, difference))
    else:
        _print(inspections, checks, difference)
    changed = [check for check in checks if check.is_same is False]
    if changed:
        raise CheckpointError(
            f"{changed[0].average}: its source {changed[0].source.name} is not what was averaged:"
            f" expected {changed[0].source.digest}, found {changed[0].found}; give the original"
            " file, or average again"
        )


def _document(
    inspections: "list[Inspection]", checks: "list[SourceCheck]", difference: str | None
) -> dict[str, Any]:
    return {
        "checkpoints": [
            {**dataclasses.asdict(item), "path": str(item.path)} for item in inspections
        ],
        "belong_together": difference is None,
        "difference": difference,
        "sources": [
            {
                "average": str(check.average),
                "name": check.source.name,
                "expected": check.source.digest,
                "found": check.found,
            }
            for check in checks
        ],
    }


def _print(
    inspections: "list[Inspection]", checks: "list[SourceCheck]", difference: str | None
) -> None:
    columns = [
        "checkpoint",
        "kind",
        "model",
        "tensors",
        "elements",
        "bytes",
        "dtypes",
        "bn",
        "from",
    ]
    rows = []
    for item in inspections:
        metadata = item.metadata
        rows.append(
            [
                item.path.name,
                metadata.kind if metadata else "-",
                metadata.model.name if metadata and metadata.model else "-",
                f"{item.n_tensors:,}",
                f"{item.n_elements:,}",
                f"{item.n_bytes:,}",
                " ".join(item.dtypes),
                item.bn,
                _origin(item),
            ]
        )
    if any(item.digest for item in inspections):
        columns.append("digest")
        for row, item in zip(rows, inspections, strict=True):
            row.append(item.digest or "-")
    print_table(columns, rows)
    for item in inspections:
        for note in item.notes:
            click.echo(f"{item.path.name}: {note}")
        _print_sources(item)
    for check in checks:
        state = {True: "same", False: "DIFFERENT", None: "not given"}[check.is_same]
        click.echo(f"{check.average.name} <- {check.source.name}: {state}")
    if len(inspections) > 1 and difference is None:
        click.echo("They belong together: they have the same names, shapes and dtypes.")
    elif difference is not None:
        notice(f"They do not belong together: {difference}")


def _origin(item: "Inspection") -> str:
    metadata = item.metadata
    if metadata is None:
        return "-"
    if metadata.average:
        return f"{len(metadata.average.sources)} sources, {metadata.average.weighting}"
    if metadata.training:
        training = metadata.training
        return f"epoch {training.epoch:g}, step {training.step:,}, lr {training.lr:.3g}"
    return "-"


def _print_sources(item: "Inspection") -> None:
    average = item.metadata.average if item.metadata else None
    if average is None:
        return
    click.echo(f"{item.path.name} averages:")
    for source in average.sources:
        click.echo(f"  {source.weight:8.5f}  {source.name}  {source.digest}")
