"""Ctrl-C and SIGTERM in the middle: the exit status says so, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from swa_tools.averaging import Uniform, open_all, plan_average, run_average

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Make files of a gigabyte, all zeros and holes: averaging them takes seconds."""
    paths = []
    for k in range(3):
        header = f'{{"w":{{"dtype":"F32","shape":[{10**9 // 4}],"data_offsets":[0,{10**9}]}}}}'
        paths.append(tmp_path_factory.mktemp("inputs") / f"{k}.safetensors")
        with paths[-1].open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header.encode())
            file.truncate(file.tell() + 10**9)
            file.seek(10**9 // 2 + 4 * k)  # so that none counts as a copy
            file.write(b"\0\0\0\x3f")
    return paths


def start(inputs, output, *options):
    command = [sys.executable, "-m", "swa_tools", "average", *inputs, "-o", output, *options]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_temporary(process, folder):
    """Wait until the output is being written."""
    deadline = time.monotonic() + 60
    while not any(name.endswith(".tmp") for name in os.listdir(folder)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "delay", "earlier"),
    [
        (signal.SIGINT, 0, None),
        (signal.SIGINT, 0.2, b"the earlier one"),
        (signal.SIGTERM, 0, b"the earlier one"),
        (signal.SIGTERM, 0.2, None),
    ],
)
def test_a_signal_ends_the_command_and_leaves_nothing(tmp_path, inputs, number, delay, earlier):
    output = tmp_path / "out.safetensors"
    if earlier is not None:
        output.write_bytes(earlier)
    with start(inputs, output, "--force") as process:
        wait_for_temporary(process, tmp_path)
        time.sleep(delay)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == SIGNALS[number], stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert os.listdir(tmp_path) == ([] if earlier is None else ["out.safetensors"])
    if earlier is not None:
        assert output.read_bytes() == earlier


def test_a_killed_command_leaves_a_temporary_file_that_the_next_removes(tmp_path, inputs):
    output = tmp_path / "out.safetensors"
    with start(inputs, output) as process:
        wait_for_temporary(process, tmp_path)
        process.kill()
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".out.safetensors.")
    with start(inputs, output) as process:
        while os.listdir(tmp_path) == [left] and process.poll() is None:
            time.sleep(0.005)
        assert left not in os.listdir(tmp_path)
        process.send_signal(signal.SIGINT)
    assert os.listdir(tmp_path) == []


def test_ctrl_c_waits_for_threads_that_still_write(checkpoints):
    """Otherwise they would write on into a file that is closed, or into another of its number."""
    paths = checkpoints({"w": np.ones(200_000)}, {"w": np.ones(200_000)})
    begun, finished = [], []

    def sink(_tensor, _offset, _data):
        if threading.current_thread() is not threading.main_thread():
            begun.append(True)
            time.sleep(0.5)
            finished.append(True)

    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with open_all(paths) as opened, pytest.raises(KeyboardInterrupt):
        run_average(plan_average(opened, Uniform()), sink, n_threads=3)
    assert len(finished) == len(begun) > 0
    timer.join()
