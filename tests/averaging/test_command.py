"""The command in a process of its own, where the system itself says no."""

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_a_pickle_with_code_is_refused_in_one_line(folder):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(folder / "it-ran"),)

    torch.save({"state_dict": {"w": torch.ones(3)}, "x": Payload()}, folder / "bad.pth")
    finished = run(folder / "bad.pth", "-o", folder / "out/x.safetensors")
    assert_one_line(finished, "bad.pth: refused: it holds a Python object besides tensors")
    assert not (folder / "it-ran").exists()
    assert os.listdir(folder / "out") == []


def test_a_mapped_file_that_shrinks_meanwhile_never_becomes_an_output(folder):
    """Between two reads it is an error; in the middle of one the system kills with SIGBUS."""
    for k in range(2):
        state = {f"w{i}": torch.full((4_000_000,), float(k)) for i in range(8)}
        torch.save(state, folder / f"{k}.pth")
    output = folder / "out/x.safetensors"
    command = [sys.executable, "-m", "swa_tools", "average", folder / "0.pth", folder / "1.pth"]
    with subprocess.Popen(
        [*map(str, command), "-o", str(output)], stderr=subprocess.PIPE, text=True
    ) as process:
        while not os.listdir(folder / "out"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        os.truncate(folder / "1.pth", 1000)
        stderr = process.communicate(timeout=60)[1]
    assert not output.exists()
    assert process.returncode in (1, -signal.SIGBUS)
    if process.returncode == 1:
        assert "1.pth: it changed while it was read" in stderr
        assert len(stderr.splitlines()) == 1
        assert os.listdir(folder / "out") == []
