"""Damaged files: every one ends in success or in one of our errors, in bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "mutate.py"


def read_damaged(kind, seed, n, folder):
    """Read n files in a process of its own, which a SIGBUS would end; return how many passed."""
    if not sys.platform.startswith("linux"):
        pytest.skip("/proc is Linux's")
    finished = subprocess.run(
        [sys.executable, SCRIPT, kind, str(seed), str(n), folder],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert finished.returncode == 0, finished.stderr.split("\r")[-1][-2000:]
    return int(finished.stdout)


def test_damaged_safetensors_files_are_read_or_refused(tmp_path):
    assert read_damaged("safetensors", 0, 10_000, tmp_path) > 100


def test_damaged_pickled_files_are_read_or_refused(tmp_path):
    assert read_damaged("pickle", 0, 500, tmp_path) > 10


@pytest.mark.slow
def test_many_damaged_safetensors_files_are_read_or_refused(tmp_path):
    assert read_damaged("safetensors", 10**6, 200_000, tmp_path) > 2000


@pytest.mark.slow
def test_many_damaged_pickled_files_are_read_or_refused(tmp_path):
    assert read_damaged("pickle", 10**6, 10_000, tmp_path) > 200
