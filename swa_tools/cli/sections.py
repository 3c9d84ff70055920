"""A help page divided into sections, for a command with many options."""

from collections.abc import Mapping, Sequence
from typing import Any

import click


class SectionedCommand(click.Command):
    """A command that lists its options under headings.

    Args:
        sections: Names of the parameters under each heading; the others come last.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        # Several options may set one parameter; hidden options have no record.
        records = {
            one.name: record
            for one in self.get_params(ctx)
            if isinstance(one, click.Option) and (record := one.get_help_record(ctx)) is not None
        }
        grouped = {
            heading: [records.pop(name) for name in names]
            for heading, names in self.sections.items()
        }
        grouped["Other options"] = list(records.values())
        for heading, found in grouped.items():
            with formatter.section(heading):
                formatter.write_dl(found)
