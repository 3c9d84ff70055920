"""What `--help` shows, and what it costs."""

import subprocess
import sys
import textwrap

import click
import pytest

from swa_tools.cli import COMMANDS, group, run

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "rich", "sklearn", "tensorboard")


def test_help_names_every_command_in_the_order_of_the_work(capsys):
    assert run(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert [word for word in listed if word in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_in_a_sentence_what_a_command_does(name):
    command = group.get_command(click.Context(group), name)
    first, *_ = (command.help or "").splitlines()
    assert first
    assert first.endswith((".", "?"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_ends_with_an_example_of_it(name, capsys):
    assert run([name, "--help"]) == 0
    _, heading, examples = capsys.readouterr().out.partition("Example")
    assert heading
    lines = textwrap.dedent(examples.partition("\n")[2]).splitlines()
    assert lines
    for line in lines:
        assert line.startswith(("swa-tools", "torchrun", " ")), line
    assert any(line.startswith(f"swa-tools {name}") for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_that_is_not_hidden(name, capsys):
    assert run([name, "--help"]) == 0
    words = set(capsys.readouterr().out.replace(",", " ").split())
    command = group.get_command(click.Context(group), name)
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.opts[-1] in words, option.opts


def test_help_of_all_commands_loads_no_heavy_library():
    script = textwrap.dedent(f"""
        import sys
        from swa_tools.cli import COMMANDS, run

        for name in ("", *COMMANDS):
            assert run([*name.split(), "--help"]) == 0
        print(*sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)
    """)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.split() == []
