"""What the README, docs/ and the example scripts say to type exists; what can run, runs.

In these pages, a shell block marked `needs-…` behind its language (a network, a GPU) is checked but
not run. The others run in a folder with stand-ins for what they name: a few images as `imagenet/`,
a run of ten cycles as `run/`, a run of one as `control/`, somebody else's files as `theirs/`.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from swa_tools.checkpoints import read_metadata
from swa_tools.cli import COMMANDS, group, run
from swa_tools.errors import SwaToolsError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
SCRIPTS = sorted((ROOT / "examples").glob("*.s*"))
OTHER_PROGRAMS = ("nvidia-smi", "scontrol")
WORDNET_IDS = {"blue": "n01440764", "green": "n02102040", "red": "n03000684"}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a Markdown page."""

    page: str
    language: str
    needs: str
    text: str


FENCED = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    Block(page.name, *found)
    for page in PAGES
    for found in FENCED.findall(page.read_text(encoding="utf-8"))
]
INLINE = re.findall(r"`([^`\n]+)`", FENCED.sub("", TEXT))


def commands_in(script: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if set(word) <= set("();&|<>"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def check_launch(words: list[str]) -> None:
    """Fail unless torchrun has the options, and is told to start a module."""
    from torch.distributed.run import get_args_parser

    found = {word.partition("=")[0] for word in words if word.startswith("--")}
    known = get_args_parser()._option_string_actions.keys()
    missing = found - known - {"--signals-to-handle"}  # which torch 2.6 did not have
    assert not missing, f"torchrun has no {missing}"
    assert words[-1:] == ["-m"], "torchrun starts a module with -m"


def call_in(command: list[str]) -> list[str] | None:
    """Return what a simple command passes to swa-tools; None if it does not call it."""
    if "torchrun" in command:
        check_launch(command[command.index("torchrun") + 1 : command.index("swa_tools")])
    for name in ("swa-tools", "swa_tools"):
        if name in command:
            return command[command.index(name) + 1 :]
    # A script may wrap a command in a function of the same name.
    return command if command and command[0] in COMMANDS else None


def command_of(call: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that a call names, and the rest of its words."""
    if not call or call[0].startswith("-"):
        return group, call
    assert call[0] in COMMANDS, f"swa-tools has no command {call[0]!r}"
    command = group.get_command(click.Context(group), call[0])
    assert command is not None
    return command, call[1:]


def options_of(command: click.Command) -> set[str]:
    context = click.Context(command)
    parameters = command.get_params(context)
    return {name for one in parameters for name in (*one.opts, *one.secondary_opts)}


def check_call(call: list[str]) -> None:
    """Fail unless click accepts a call as it stands: command, options, choices, numbers."""
    command, words = command_of(call)
    # --help and --version exit; a run that an option names need not be there.
    with contextlib.suppress(click.exceptions.Exit, SwaToolsError):
        command.make_context("swa-tools", list(words))


def check_options(call: list[str]) -> None:
    """Fail unless the command of a call has its options; their values may be the shell's."""
    command, words = command_of(call)
    found = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert found <= options_of(command), f"{call[0]} has no {found - options_of(command)}"


ALL_OPTIONS = options_of(group).union(*(options_of(command_of([name])[0]) for name in COMMANDS))
SHELL = [block for block in BLOCKS if block.language == "sh"]


@pytest.mark.parametrize(
    "block", SHELL, ids=lambda block: f"{block.page}: {block.text.splitlines()[0]}"
)
def test_calls_in_a_block_are_accepted(block):
    for command in commands_in(block.text):
        if (call := call_in(command)) is not None:
            check_call(call)


def test_calls_in_the_text_name_what_exists():
    for code in INLINE:
        if re.match("swa-tools [a-z]", code):
            check_options(shlex.split(code)[1:])


@pytest.mark.parametrize("option", sorted(set(re.findall(r"(?<!\S)--[a-z-]+", " ".join(INLINE)))))
def test_option_in_the_text_exists(option):
    assert option in ALL_OPTIONS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_example_script_names_commands_and_options_that_exist(script):
    text = script.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert any(call_in(command) for command in commands_in(text))
    for command in commands_in(text):
        if call := call_in(command):
            check_options(call)
        elif command and command[0] not in OTHER_PROGRAMS:  # an array, or a function of the script
            assert {word for word in command if word.startswith("--")} <= ALL_OPTIONS, command


def test_every_command_is_in_the_readme():
    assert [name for name in COMMANDS if f"`{name}`" not in README] == []


def test_file_tree_is_what_there_is():
    (tree,) = [block.text for block in BLOCKS if block.language == "text" and "cli/" in block.text]
    folders: list[str] = []
    listed = set()
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        folders[len(indent) // 2 :] = [name]
        listed.add("".join(folders))
    assert [path for path in listed if not (ROOT / path).exists()] == []
    package = ROOT / "swa_tools"
    parts = [*package.glob("[a-z]*.py"), *(path.parent for path in package.glob("*/__init__.py"))]
    assert {str(path.relative_to(ROOT)) for path in parts} <= {path.rstrip("/") for path in listed}


@pytest.mark.parametrize(
    "call",
    [
        "averge run -o swa.safetensors",
        "average run --made-up -o swa.safetensors",
        "update-bn run",
        "average run --estimator guess -o swa.safetensors",
        "average run --last some -o swa.safetensors",
        "--made-up",
    ],
)
def test_check_refuses_what_does_not_exist(call):
    with pytest.raises((AssertionError, click.UsageError)):
        check_call(shlex.split(call))


def test_check_sees_calls_in_every_form():
    script = (
        "cd folder && OMP_NUM_THREADS=1 swa-tools inspect a \\\n  --json | head  # not --this\n"
        "srun torchrun --nproc-per-node 8 -m swa_tools evaluate --made-up\n"
        "for seed in 0 1; do python -m swa_tools demo --seed $seed; done\n"
    )
    calls = [call for command in commands_in(script) if (call := call_in(command))]
    assert calls == [
        ["inspect", "a", "--json"],
        ["evaluate", "--made-up"],
        ["demo", "--seed", "$seed"],
    ]
    check_options(calls[2])
    with pytest.raises(AssertionError, match="made-up"):
        check_options(calls[1])
    with pytest.raises(AssertionError, match="made-up"):
        call_in(["torchrun", "--made-up", "-m", "swa_tools", "demo"])
    with pytest.raises(AssertionError, match="-m"):
        call_in(["torchrun", "swa_tools", "demo"])


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, image_folder, tiny_model):
    """A folder with small stand-ins for what the README's commands name."""
    import torch

    from swa_tools.models import create_model

    folder = tmp_path_factory.mktemp("stand-ins")
    for split in ("train", "val"):
        for name, wordnet_id in WORDNET_IDS.items():
            shutil.copytree(image_folder / split / name, folder / "imagenet" / split / wordnet_id)
    (folder / "theirs").mkdir()
    for epoch in (1, 2, 3):
        torch.manual_seed(epoch)
        weights = create_model("torchvision/mobilenet_v2").module.state_dict()
        trainers = {"model": weights, "epoch": epoch, "args": argparse.Namespace(lr=0.1)}
        torch.save(trainers, folder / "theirs" / f"epoch-{epoch}.pth")
    data = ["--data", "imagenet", "--image-size", "32", "--workers", "0"]
    with contextlib.chdir(folder):
        start = ["finetune", tiny_model, "--no-pretrained", *data, "--batch-size", "8"]
        assert run([*start, "-o", "run"]) == 0
        assert run([*start, "--epochs", "1", "--seed", "1", "-o", "control"]) == 0
    return folder


@pytest.fixture
def workspace(stand_ins, tmp_path, monkeypatch):
    """A copy of the stand-ins, to work in; SIGTERM means what it did before."""
    before = signal.getsignal(signal.SIGTERM)
    shutil.copytree(stand_ins, tmp_path / "workspace")
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    yield
    signal.signal(signal.SIGTERM, before)


def type_in(script: str) -> None:
    """Run lines of shell; calls of swa-tools alone in this process, where torch is loaded."""
    for line in script.replace("\\\n", " ").splitlines():
        if not line.startswith("swa-tools "):
            subprocess.run(["bash", "-euc", line], check=True)
            continue
        show = f"swa-tools() {{ printf '%s\\0' \"$@\"; }}; {line}"
        words = subprocess.run(["bash", "-euc", show], capture_output=True, text=True, check=True)
        assert run(words.stdout.split("\0")[:-1]) == 0, line


def run_blocks(*needs: str) -> None:
    """Run the blocks that need what is given, in their order."""
    for block in BLOCKS:
        if block.language == "sh" and block.needs in needs:
            type_in(block.text)
        elif block.language == "python":
            exec(compile(block.text, "README.md", "exec"), {})


def test_what_needs_nothing_runs(workspace):
    run_blocks("")


@pytest.mark.slow
def test_what_needs_a_minute_runs_after_it(workspace):
    run_blocks("", "needs-a-minute")


def test_readme_leaves_out_what_it_must_and_no_more():
    assert {block.needs for block in BLOCKS} <= {"", "needs-network", "needs-gpu", "needs-a-minute"}


@pytest.mark.slow
def test_example_of_the_paper_runs_on_one_process(workspace, monkeypatch, tiny_model):
    monkeypatch.setenv("MODEL", tiny_model)
    monkeypatch.setenv("N_GPUS", "1")
    small = ["--no-pretrained", "--image-size", "32", "--batch-size", "8"]
    script = str(ROOT / "examples" / "imagenet_resnet50.sh")
    subprocess.run(["bash", script, "imagenet", "runs", *small], check=True)
    for n in (5, 10):
        assert len(read_metadata(f"runs/swa-{n}.safetensors").average.sources) == n


def test_example_in_python_averages(workspace, monkeypatch, capsys):
    script = ROOT / "examples" / "average_in_python.py"
    monkeypatch.setattr(sys, "argv", [str(script), "average.safetensors", "run"])
    runpy.run_path(str(script), run_name="__main__")
    assert "0.10000  cycle-010.safetensors" in capsys.readouterr().out
    average = read_metadata("average.safetensors").average
    assert len(average.sources) == 10
