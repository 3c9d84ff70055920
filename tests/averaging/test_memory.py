"""Memory stays below 80 MB, whatever the number of checkpoints and the size of their tensors."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from swa_tools.checkpoints import write_checkpoint
from swa_tools.checkpoints.dtypes import DTYPES

LIMIT_BYTES = 80_000_000
# The peak of the process itself: what wait4 tells also counts the process that it was forked from.
PEAK = """
with open("/proc/self/status") as status:
    lines = dict(line.split(":", 1) for line in status)
print(int(lines["VmHWM"].split()[0]) * 1024)
"""
COMMAND = f"""
import sys
from swa_tools.cli import run
assert run(sys.argv[1:]) == 0
{PEAK}
"""
# Nothing is written: what the writer takes shows in the command.
KERNEL = f"""
import sys
from swa_tools.averaging import Uniform, open_all, plan_average, run_average
*paths, n_threads = sys.argv[1:]
with open_all(paths) as opened:
    run_average(plan_average(opened, Uniform()), lambda *_: None, n_threads=int(n_threads))
{PEAK}
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


def peak_bytes(script, *arguments):
    finished = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout.splitlines()[-1])


def all_zeros(path, dtype, n_elements):
    """Write a tensor of zeros that takes no space on the disk."""
    n_bytes = n_elements * DTYPES[dtype].bits // 8
    header = f'{{"w":{{"dtype":"{dtype}","shape":[{n_elements}],"data_offsets":[0,{n_bytes}]}}}}'
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(file.tell() + n_bytes)
    return path


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E4M3", "I64"])
def test_a_tensor_larger_than_the_limit_is_streamed(tmp_path, dtype):
    n_elements = 120_000_000 * 8 // DTYPES[dtype].bits
    paths = [all_zeros(tmp_path / f"{k}.safetensors", dtype, n_elements) for k in range(2)]
    assert peak_bytes(KERNEL, *paths, 2) < LIMIT_BYTES


def test_the_command_streams_too(tmp_path):
    paths = [all_zeros(tmp_path / f"{k}.safetensors", "F32", 25_000_000) for k in range(2)]
    with paths[1].open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(3).tobytes())
    output = tmp_path / "out.safetensors"
    assert peak_bytes(COMMAND, "average", *paths, "-o", output) < LIMIT_BYTES
    assert np.frombuffer(output.read_bytes()[-4:], np.float32) == [1.5]


def test_eight_threads_stay_below_the_limit(tmp_path):
    paths = [all_zeros(tmp_path / f"{k}.safetensors", "BF16", 40_000_000) for k in range(3)]
    assert peak_bytes(KERNEL, *paths, 8) < LIMIT_BYTES


def test_many_checkpoints_of_many_tensors_stay_below_the_limit(tmp_path):
    arrays = {
        f"layers.{i}.{j}.{name}": np.ones(2, ml_dtypes.bfloat16)
        for i in range(20)
        for j in range(4)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    paths = [tmp_path / f"{k}.safetensors" for k in range(300)]
    write_checkpoint(paths[0], arrays, None)
    content = paths[0].read_bytes()
    for k, path in enumerate(paths):
        numbers = np.full(2 * len(arrays), 0x3F80 + k, np.uint16)  # bfloat16, from 1 on
        path.write_bytes(content[: -numbers.nbytes] + numbers.tobytes())
    assert peak_bytes(COMMAND, "average", *paths, "-o", tmp_path / "out") < LIMIT_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "n_gigabytes"), [("F32", 2), ("F32", 10), ("BF16", 10)])
def test_a_tensor_of_gigabytes_stays_below_the_limit(tmp_path, dtype, n_gigabytes):
    n_elements = n_gigabytes * 10**9 * 8 // DTYPES[dtype].bits
    paths = [all_zeros(tmp_path / f"{k}.safetensors", dtype, n_elements) for k in range(2)]
    with paths[1].open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\x3f")
    output = tmp_path / "out.safetensors"
    options = ["--dtype", "F8_E5M2"]  # to write little
    assert peak_bytes(COMMAND, "average", *paths, *options, "-o", output) < LIMIT_BYTES
    output.unlink()
