"""The command line: options in, one library call, results out.

A command is the object `command` in the module of its name in `commands/`, which is imported on
demand. Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from swa_tools import __version__
from swa_tools.errors import OtherRankError, SwaToolsError

COMMANDS = (
    "finetune",
    "average",
    "update-bn",
    "evaluate",
    "soup",
    "sweep",
    "inspect",
    "plane",
    "ray",
    "segment",
    "trajectory",
    "report",
    "demo",
)
"""The names of the commands, in the order of the work."""

EXIT_ERROR = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"swa_tools.cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="swa-tools")
def group() -> None:
    """Stochastic Weight Averaging for pretrained timm and torchvision models.

    Fine-tune with a cyclic learning rate, average the checkpoints, recompute BatchNorm, evaluate.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status.

    0: done. 1: an error, in one line on stderr. 2: wrong usage. 130: Ctrl-C. 143: SIGTERM, or
    SIGUSR1, which Slurm can send some time before it.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; see `main`."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _terminate)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = group.main(arguments, prog_name="swa-tools", standalone_mode=False, obj=arguments)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OtherRankError:  # that rank says what is wrong
        return EXIT_ERROR
    except SwaToolsError as error:
        click.echo(f"Error: {error}", err=True)
        return EXIT_ERROR
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:  # from stdout: the library turns those of files into its own errors
        where = f"{error.filename}: " if error.filename else "cannot write the output: "
        click.echo(f"Error: {where}{error.strerror or error}", err=True)
        return EXIT_ERROR
    return result if isinstance(result, int) else 0


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_TERMINATED)
