"""`swa-tools average`."""
import click
from swa_tools.cli.options import checkpoints_argument, output_option, force_option


@click.command()
@checkpoints_argument
@output_option
@force_option
def command(checkpoints: tuple[str, ...], output, force: bool) -> None:
    """Average.

    \b
    Example:
      swa-tools average
    """
    from swa_tools.averaging import average_checkpoints
    from swa_tools.checkpoints import find_checkpoints
    average_checkpoints(find_checkpoints(checkpoints), output, force=force)
