import os
import subprocess
import sys

import pytest
import torch

from swa_tools.distributed import Distributed, distributed, float64_device, single_process
from swa_tools.errors import SwaToolsError


@pytest.fixture(autouse=True)
def without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_alone_every_collective_is_the_identity():
    tensor = torch.tensor([2**60 + 1])
    with distributed("cpu") as context:
        assert context == Distributed(device=torch.device("cpu"))
        assert context.is_main
        assert context.sum(tensor) is tensor
        assert context.gather("a") == ["a"]
        assert context.broadcast("b") == "b"
        context.barrier()
        assert not torch.distributed.is_initialized()


def collectives(context):
    numbers = torch.tensor([context.rank, 2**60 + context.rank])
    halves = torch.tensor([0.1 * (context.rank + 1)], dtype=torch.float64)
    transposed = torch.arange(6.0).reshape(2, 3).T
    context.barrier()
    return {
        "context": (context.rank, context.world_size, context.local_rank, str(context.device)),
        "is_main": context.is_main,
        "sum": context.sum(numbers),
        "numbers": numbers,
        "float64": context.sum(halves),
        "transposed": context.sum(transposed),
        "gather": context.gather({"rank": context.rank}),
        "broadcast": context.broadcast(f"from rank {context.rank}"),
    }


def test_collectives_of_two_ranks(on_ranks):
    for rank, result in enumerate(on_ranks(collectives)):
        assert result["context"] == (rank, 2, rank, "cpu")
        assert result["is_main"] == (rank == 0)
        assert result["sum"].tolist() == [1, 2**61 + 1]
        assert result["numbers"].tolist() == [rank, 2**60 + rank]
        assert result["float64"].dtype == torch.float64
        assert result["float64"].item() == 0.1 + 0.2
        assert result["transposed"].equal(2 * torch.arange(6.0).reshape(2, 3).T)
        assert result["gather"] == [{"rank": 0}, {"rank": 1}]
        assert result["broadcast"] == "from rank 0"


LOSE_RANK_1 = """
import os, sys
from swa_tools.distributed import distributed
from swa_tools.errors import SwaToolsError
with distributed("cpu") as context:
    context.barrier()
    if context.rank == 1:
        raise KeyboardInterrupt
    try:
        context.barrier()
    except SwaToolsError as error:
        print(error, flush=True)
        raise SystemExit(1)
"""


def test_a_lost_rank_is_one_line_on_the_others(tmp_path):
    script = tmp_path / "lose.py"
    script.write_text(LOSE_RANK_1)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [sys.executable, *launcher, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode != 0
    # torchrun may end rank 0 before it has noticed.
    lines = finished.stdout.splitlines()
    assert lines == [] or (len(lines) == 1 and "rank 0 of 2: lost the other" in lines[0])


def test_a_group_that_is_already_there_is_used_and_left_alone(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        with distributed("cpu") as context:
            assert (context.rank, context.world_size) == (0, 1)
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a whole number, found 'two'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "expected 0 <= RANK < WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "do not find each other"),
    ],
)
def test_a_broken_environment_is_named(monkeypatch, environment, message):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SwaToolsError, match=message), distributed("cpu"):
        pass


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_named(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SwaToolsError, match=f"device '?{device}.*(expected|try)"):
        single_process(device)


def test_each_rank_takes_the_gpu_of_its_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with distributed() as context:
        assert context.device == torch.device("cuda:0")
    with distributed("cuda:1") as context:
        assert context.device == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with distributed("cuda") as context:
        assert context.device == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SwaToolsError, match="only 2 GPUs.*--nproc-per-node 2"), distributed():
        pass


def test_processes_cannot_share_a_numbered_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SwaToolsError, match="cuda:1: 2 processes"), distributed("cuda:1"):
        pass


def test_float64_lives_where_the_device_has_it():
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert float64_device(torch.device("mps")) == torch.device("cpu")
