"""The command in a process of its own, where the system itself says no."""

import os
import re
import resource
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

from swa_tools.checkpoints import write_checkpoint

STATE = {"w": np.arange(50_000, dtype=np.float32), "n": np.array(1)}


def assert_one_line(finished, pattern):
    assert finished.returncode == 1, finished.stderr
    assert finished.stdout == ""
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert re.match(f"Error: .*{pattern}", finished.stderr), finished.stderr


def run(*arguments, before=""):
    """Run `swa-tools average`, after a piece of Python that prepares the process."""
    script = f"import os, resource, sys\nfrom swa_tools.cli import main\n{before}\nmain()"
    command = [sys.executable, "-c", script, "average", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def folder():
    """Give a folder that every user can reach, with two inputs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for k in range(2):
            write_checkpoint(folder / f"{k}.safetensors", {**STATE, "w": STATE["w"] + k}, None)
            (folder / f"{k}.safetensors").chmod(0o644)
        (folder / "out").mkdir()
        yield folder


# Python itself may lie where only root can read, so a first try, which fails, imports everything.
AS_NOBODY = textwrap.dedent("""
    import contextlib, io
    from swa_tools.cli import run
    with contextlib.redirect_stderr(io.StringIO()):
        run([*sys.argv[1:3], "-o", "/nowhere/out.safetensors"])
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
""")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")


@as_root
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_an_output_folder_without_permission_is_one_line(folder, mode):
    (folder / "out").chmod(mode)
    paths = folder / "0.safetensors", folder / "1.safetensors"
    finished = run(*paths, "-o", folder / "out/x.safetensors", before=AS_NOBODY)
    assert_one_line(finished, "x.safetensors: cannot write it: ([Nn]o p|P)ermission")


@as_root
def test_an_output_that_belongs_to_somebody_else_stays_unless_forced(folder):
    output = folder / "out/x.safetensors"
    output.write_bytes(b"precious")
    (folder / "out").chmod(0o755)
    paths = folder / "0.safetensors", folder / "1.safetensors"
    finished = run(*paths, "--force", "-o", output, before=AS_NOBODY)
    assert_one_line(finished, "no permission to write in")
    assert output.read_bytes() == b"precious"


@as_root
@pytest.mark.parametrize("how", ["file", "folder", "glob", "run", "index"])
def test_an_input_without_permission_is_one_line(folder, how):
    hidden = folder / "hidden"
    (hidden / "checkpoints").mkdir(parents=True)
    (hidden / "run.json").write_text("{}")
    for name in ("checkpoints/a.safetensors", "model.safetensors"):
        write_checkpoint(hidden / name, STATE, None)
    argument = {
        "file": folder / "0.safetensors",
        "folder": hidden,
        "glob": hidden / "*.safetensors",
        "run": hidden / "checkpoints" / "a.safetensors",
        "index": hidden / "model.safetensors.index.json",
    }[how]
    (folder / "0.safetensors").chmod(0o000)
    hidden.chmod(0o000)
    (folder / "out").chmod(0o777)
    finished = run(argument, "-o", folder / "out/x.safetensors", before=AS_NOBODY)
    hidden.chmod(0o755)
    assert_one_line(finished, "(Permission denied|no permission|no file matches|neither a run)")
    assert os.listdir(folder / "out") == []


@pytest.mark.parametrize("limit", [0, 100, 4096, 150_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(folder, limit):
    """A limit of the size of files: write fails in the middle of the data."""
    limited = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    paths = folder / "0.safetensors", folder / "1.safetensors"
    finished = run(*paths, "-o", folder / "out/x.safetensors", before=limited)
    assert_one_line(finished, "x.safetensors: cannot write it: File too large")
    assert os.listdir(folder / "out") == []
    assert limit < resource.getrlimit(resource.RLIMIT_FSIZE)[0] % 2**63
