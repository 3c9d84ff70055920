"""Shards on several processes: the bytes of one process, or nothing at all."""

import contextlib
import errno
import io
import os
import signal

import numpy as np
import pytest
import torch

from swa_tools.averaging import AverageOptions, TensorRules, average_checkpoints
from swa_tools.averaging import folder as averaging_folder
from swa_tools.checkpoints import content_digest
from swa_tools.cli import run

SHARDS = ["--max-shard-size", "100"]


def call(_context, *arguments):
    """Run the command; return its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(["average", *arguments])
    return status, out.getvalue(), err.getvalue()


def fail_on(context, failing, how, *arguments):
    """Run the command; on one rank the averaging of its shards dies or raises."""

    def fail(*_arguments, **_options):
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if context.rank == int(failing):
        averaging_folder.run_average = fail
    return call(context, *arguments)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_ranks_gives_the_bytes_of_one(
    checkpoints, states, tmp_path, on_ranks, world_size
):
    paths = checkpoints(*states(3))
    options = AverageOptions(max_shard_size=100, rules=TensorRules(exclude=("index",)))
    average_checkpoints(paths, f"{tmp_path}/one/", options=options)
    output = tmp_path / "several"
    results = on_ranks(
        call, *paths, *SHARDS, "--exclude", "index", "-o", f"{output}/", world_size=world_size
    )
    assert [status for status, _, _ in results] == [0] * world_size
    assert content(output) == content(tmp_path / "one")
    assert len(content(output)) > world_size
    first, *others = [out + err for _, out, err in results]
    assert "the average of 3 checkpoints" in first
    assert others == [""] * (world_size - 1)
    assert run(["inspect", str(output), *map(str, paths), "--verify"]) == 0


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_on_one_rank_ends_all_and_leaves_nothing(
    checkpoints, states, tmp_path, on_ranks, failing
):
    paths, output = checkpoints(*states(2)), tmp_path / "out"
    results = on_ranks(fail_on, failing, "ENOSPC", *paths, *SHARDS, "-o", f"{output}/")
    message = f"Error: {output}: cannot write it: No space left on device\n"
    expected = [(1, "", message if rank == failing else "") for rank in range(2)]
    assert results == expected
    assert not [name for name in os.listdir(tmp_path) if "out" in name]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_is_killed_leaves_no_output(
    checkpoints, states, tmp_path, nursery, failing, earlier
):
    paths, output = checkpoints(*states(3)), tmp_path / "out"
    options = AverageOptions(max_shard_size=100, force=True)
    if earlier:
        average_checkpoints(paths[:2], f"{output}/", options=options)
        before = content_digest(output)
    arguments = [failing, "SIGKILL", *paths, *SHARDS, "--force", "-o", f"{output}/"]
    place = [__file__, fail_on.__name__, str(tmp_path)]
    started = nursery.start_ranks(function=[*place, *map(str, arguments)], world_size=3)
    statuses = [process.wait() for process in started]
    assert statuses == [-signal.SIGKILL if rank == failing else 0 for rank in range(3)]
    for rank in {0, 1, 2} - {failing}:
        status, out, err = torch.load(tmp_path / f"{rank}.pt")
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        assert f"rank {rank} of 3: lost the other processes" in err
    assert output.exists() == earlier
    assert not earlier or content_digest(output) == before
    average_checkpoints(paths, f"{output}/", options=options)
    assert not [name for name in (*os.listdir(output), *os.listdir(tmp_path)) if "tmp" in name]


def test_what_is_wrong_is_said_once(checkpoints, tmp_path, on_ranks):
    paths = checkpoints({"w": np.ones(3)}, {"w": np.full(3, np.nan)})
    output = tmp_path / "x.safetensors"
    (status, out, err), *others = on_ranks(call, *paths, "-o", output)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "2 processes do not write one file together" in err
    assert others == [(1, "", "")]
    results = on_ranks(call, *paths, "missing.safetensors", *SHARDS, "-o", f"{tmp_path}/out/")
    assert "missing.safetensors: no such file" in results[0][2]
    assert results[1] == (1, "", "")
    results = on_ranks(call, *paths, *SHARDS, "-o", f"{tmp_path}/out/")
    assert sum("holds NaN or Inf" in err for _, _, err in results) == 1
    assert [status for status, _, _ in results] == [1, 1]
    assert sorted(os.listdir(tmp_path)) == ["0.pt", "1.pt", "in"]
