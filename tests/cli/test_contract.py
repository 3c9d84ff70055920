"""What holds for every command: its exit status, and what goes where."""

import subprocess
import sys

import numpy as np
import pytest

from swa_tools import __version__
from swa_tools.checkpoints import write_checkpoint
from swa_tools.cli import run

SWA_TOOLS = f"{sys.executable} -m swa_tools"


@pytest.fixture
def files(tmp_path):
    for k in (1, 2):
        write_checkpoint(tmp_path / f"{k}.safetensors", {"w": np.full(3, k, np.float32)}, None)
    return f"{tmp_path}/1.safetensors {tmp_path}/2.safetensors"


def shell(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False)


def test_the_version_is_that_of_the_package(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"swa-tools, version {__version__}\n"


def test_an_unknown_command_or_option_is_wrong_usage(capsys):
    assert run(["avarage"]) == 2
    assert run(["average", "--last"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_device_behind_stdout_is_one_line(files, tmp_path):
    done = shell(f"{SWA_TOOLS} average {files} -o {tmp_path}/out.safetensors > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write the output: No space left on device\n"


def test_a_reader_that_has_seen_enough_is_no_traceback(files):
    done = shell(f"{SWA_TOOLS} inspect {files} | true")
    assert "Traceback" not in done.stderr


def test_a_closed_stderr_does_no_harm(files, tmp_path):
    done = shell(f"{SWA_TOOLS} average {files} -o {tmp_path}/out.safetensors 2>&-")
    assert done.returncode == 0
    assert "average of 2 checkpoints" in done.stdout


def test_a_closed_stdout_does_no_harm(files, tmp_path):
    done = shell(f"{SWA_TOOLS} average {files} -o {tmp_path}/out.safetensors --plan >&-")
    assert "Traceback" not in done.stderr


def test_completion_knows_the_commands():
    environment = "COMP_WORDS='swa-tools eva' COMP_CWORD=1 _SWA_TOOLS_COMPLETE=bash_complete"
    code = f"{sys.executable} -c 'from swa_tools.cli import main; main()'"
    assert shell(f"{environment} {code}").stdout == "plain,evaluate\n"
