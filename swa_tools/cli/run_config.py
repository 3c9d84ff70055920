"""Options that come from an earlier run: `finetune --config RUN/run.json`, `finetune --resume RUN`.

The earlier run's values become the defaults of all options; values on the command line take
precedence.
"""

from pathlib import Path

import click

from swa_tools.run_directory import RunDirectory, read_options


def read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Take the options of a run from its description; a click callback."""
    if path is not None:
        _take_options_from(path, ctx)
    return path


def read_resumed(ctx: click.Context, _: click.Parameter, run: Path | None) -> Path | None:
    """Take the options and the folder of the run to resume; a click callback."""
    if run is not None:
        _take_options_from(RunDirectory(run).description, ctx)
        ctx.default_map = {**(ctx.default_map or {}), "output": run}
    return run


def _take_options_from(path: Path, ctx: click.Context) -> None:
    options = read_options(path)
    defaults = {name: value for name, value in options.items() if value is not None}
    # In the form that click's own types return.
    defaults["model_kwargs"] = tuple(dict(defaults.get("model_kwargs", {})).items())
    if "milestones" in defaults:
        defaults["milestones"] = tuple(defaults["milestones"])
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
