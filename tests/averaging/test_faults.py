"""Real faults: every system call of a small run fails in turn, or the process is killed at it."""

import collections
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import NamedTuple

import pytest

from swa_tools.averaging import AverageOptions, average_checkpoints
from swa_tools.checkpoints import write_checkpoint

# strace is attached once everything is imported, so that the calls are counted from there: what
# importing takes depends on what is compiled. getppid, which nothing else calls, marks where the
# work begins and ends.
SCRIPT = textwrap.dedent("""
    import ctypes, os, sys
    from swa_tools.averaging import AverageOptions, average_checkpoints
    from swa_tools.errors import SwaToolsError

    ctypes.CDLL(None).prctl(0x59616D61, -1)  # PR_SET_PTRACER: by any process of this user
    folder = sys.argv[1]
    inputs = [f"{folder}/a.safetensors", f"{folder}/b.safetensors"]
    options = AverageOptions(force=True, n_threads=1)
    print("ready", flush=True)
    os.read(0, 1)
    os.getppid()
    try:
        average_checkpoints(inputs, f"{folder}/out.safetensors", options=options)
    except SwaToolsError as error:
        print("Error:", error)
        sys.exit(1)
    finally:
        os.getppid()
""")
EARLIER = b"the earlier one"
FAULTS = {"ENOSPC": "error=ENOSPC", "EIO": "error=EIO", "SIGKILL": "signal=SIGKILL"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
NOT_OF_FILES = ("mmap", "munmap", "brk", "mremap", "madvise", "futex", "getppid", "rt_sig", "exit")
WRITING = ("pwrite64", "fsync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "flock")


class Call(NamedTuple):
    """One system call of the work: its name, and the how-many-eth of that name it is."""

    name: str
    number: int
    line: str

    @property
    def is_of_the_writer(self):
        return self.name in WRITING or ".tmp" in self.line or "O_DIRECTORY" in self.line


def strace(folder, *options):
    """Do the work under strace; its trace is left in the folder."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", SCRIPT, folder / "work"]
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes) as worker:
        assert worker.stdout.readline() == "ready\n"
        attach = ["strace", "-p", str(worker.pid), "-o", folder / "trace", *options]
        with subprocess.Popen(attach, stderr=subprocess.PIPE, text=True) as tracer:
            said = tracer.stderr.readline()
            stdout, stderr = worker.communicate("x", timeout=60)
            said += tracer.communicate(timeout=60)[1]
    if "attached" not in said:
        pytest.skip(f"strace does not work here: {said.strip()[-200:]}")
    return subprocess.CompletedProcess(command, worker.returncode, stdout, stderr)


def fill(folder, *, earlier):
    """Make two inputs and, if there shall be one, an earlier output."""
    import numpy as np

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "ab":
        arrays = {"w": generator.normal(size=70_000).astype(np.float32), "n": np.array(3)}
        write_checkpoint(folder / f"{name}.safetensors", arrays, None)
    if earlier:
        (folder / "out.safetensors").write_bytes(EARLIER)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """List the system calls of an undisturbed run, without and with an earlier output."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    found = {}
    for earlier in (False, True):
        folder = tmp_path_factory.mktemp("trace")
        fill(folder / "work", earlier=earlier)
        assert strace(folder).returncode == 0
        trace = (folder / "trace").read_text(errors="replace").splitlines()
        found[earlier] = list(calls_between_marks(trace))
        names = {call.name for call in found[earlier]}
        assert names >= {"openat", "pwrite64", "fsync", "close", "flock"}
    return found


def calls_between_marks(trace):
    counts, is_work = collections.Counter(), False
    for line in trace:
        name = line.partition("(")[0]
        counts[name] += 1
        is_work ^= name == "getppid"
        if is_work and name.isidentifier() and not name.startswith(NOT_OF_FILES):
            yield Call(name, counts[name], line)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Give the bytes of the output of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    fill(folder / "work", earlier=False)
    average(folder / "work")
    return (folder / "work" / "out.safetensors").read_bytes()


def average(folder):
    inputs = [folder / "a.safetensors", folder / "b.safetensors"]
    options = AverageOptions(force=True)
    average_checkpoints(inputs, folder / "out.safetensors", options=options)


def problems_after(call, fault, finished, folder, earlier, whole):
    """Say what is wrong after a fault: nothing must be lost, hidden or left behind."""
    trace = (folder / "trace").read_text(errors="replace")
    marks = [m.start() for m in re.finditer(r"getppid\(", trace)]
    hit = trace.find("(INJECTED)") if "error" in FAULTS[fault] else trace.find("SIGKILL")
    if not marks or hit < marks[0]:
        yield "the fault did not hit the work: the run is not the same twice"
    output = folder / "work" / "out.safetensors"
    content = output.read_bytes() if output.exists() else None
    if content not in (EARLIER if earlier else None, whole):
        yield "the output is neither as before nor whole"
    left = [name for name in os.listdir(folder / "work") if name.endswith(".tmp")]
    if fault == "SIGKILL":
        if finished.returncode != -signal.SIGKILL:
            yield f"expected to be killed, found status {finished.returncode}"
    else:
        if left and call.name not in ("unlink", "unlinkat"):
            yield f"a temporary file is left: {left}"
        if finished.returncode == 0 and content != whole:
            yield "success without an output"
        if finished.returncode not in (0, 1) or "Traceback" in finished.stderr:
            yield f"status {finished.returncode}, stderr {finished.stderr[-300:]}"
        if finished.returncode == 1 and len(finished.stdout.splitlines()) != 1:
            yield f"expected one line, found {finished.stdout!r} {finished.stderr[-300:]!r}"
    average(folder / "work")
    if sorted(os.listdir(folder / "work")) != ["a.safetensors", "b.safetensors", "out.safetensors"]:
        yield "the next run does not remove what was left"
    if output.read_bytes() != whole:
        yield "the next run does not write the output"


def all_problems(calls, fault, folder, earlier, whole):
    problems = []
    for call in calls:
        fill(folder / "work", earlier=earlier)
        inject = f"inject={call.name}:{FAULTS[fault]}:when={call.number}"
        finished = strace(folder, "-e", f"trace={call.name},getppid", "-e", inject)
        found = problems_after(call, fault, finished, folder, earlier, whole)
        problems += [f"{call.line}: {problem}" for problem in found]
    return "\n".join(problems)


@pytest.mark.parametrize("fault", ["ENOSPC", "SIGKILL"])  # the slow test has EIO, too
def test_no_fault_of_the_writer_loses_data(tmp_path, calls, whole, fault):
    chosen = [call for call in calls[True] if call.is_of_the_writer]
    assert len(chosen) >= 8
    assert all_problems(chosen, fault, tmp_path, True, whole) == ""


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_of_any_system_call_loses_data(tmp_path, calls, whole, fault, earlier):
    assert all_problems(calls[earlier], fault, tmp_path, earlier, whole) == ""


def test_a_full_disk_on_which_nothing_can_be_removed_either(tmp_path, calls, whole):
    """Two faults at once: the first is told, and the next run cleans up."""
    fill(tmp_path / "work", earlier=True)
    write = next(call for call in calls[True] if call.name == "pwrite64")
    full = f"inject=pwrite64:error=ENOSPC:when={write.number}+"
    finished = strace(tmp_path, "-e", full, "-e", "inject=unlink,unlinkat:error=EIO")
    assert finished.returncode == 1
    assert "cannot write it: No space left on device" in finished.stdout
    assert (tmp_path / "work/out.safetensors").read_bytes() == EARLIER
    average(tmp_path / "work")
    assert len(os.listdir(tmp_path / "work")) == 3
    assert (tmp_path / "work/out.safetensors").read_bytes() == whole
