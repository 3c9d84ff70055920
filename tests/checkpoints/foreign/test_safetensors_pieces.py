"""Folders of safetensors pieces, written by torch on ranks."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from swa_tools.checkpoints import content_digest, find_checkpoints, open_checkpoint
from swa_tools.errors import CheckpointError

hf_storage = pytest.importorskip("torch.distributed.checkpoint.hf_storage")

CUTS = {"rows": 0, "columns": 1, "middle": 1}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "rows": torch.randn(7, 3, generator=generator),
        "columns": torch.randn(4, 6, generator=generator),
        "middle": torch.randn(2, 9, 3, generator=generator).bfloat16(),
        "whole": torch.randn(5, generator=generator),
        "counter": torch.tensor(3),
    }


def save_on_a_rank(context, folder):
    mesh = init_device_mesh("cpu", (context.world_size,))
    state = {
        name: distribute_tensor(tensor, mesh, [Shard(CUTS[name])]) if name in CUTS else tensor
        for name, tensor in tensors().items()
    }
    writer = hf_storage.HuggingFaceStorageWriter(folder, save_distributed=True)
    dcp.save(state, storage_writer=writer)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tmp_path_factory.mktemp("pieces") / "step-7"


@pytest.fixture
def folder(original, on_ranks, tmp_path):
    """Give a copy of a folder that three ranks wrote."""
    if not original.exists():
        on_ranks(save_on_a_rank, original, world_size=3)
    return shutil.copytree(original, tmp_path / "step-7")


def test_every_way_to_cut_a_tensor_is_put_together(folder):
    assert find_checkpoints([folder]) == [folder]
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.tensors) == set(tensors())
        for name, tensor in tensors().items():
            assert checkpoint.tensors[name].shape == tuple(tensor.shape)
            expected = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert checkpoint.read_bytes(name) == expected
        assert checkpoint.notes[0].startswith("put together from 3 files of ranks")
        checkpoint.check_unchanged()


def refusal(folder):
    n_open = len(os.listdir("/dev/fd"))
    with pytest.raises(CheckpointError) as caught:
        content_digest(folder)
    assert len(os.listdir("/dev/fd")) == n_open
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_missing_piece_is_an_error(folder):
    min(folder.iterdir()).unlink()
    assert "its parts do not make up a whole; is a file missing?" in refusal(folder)


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        (None, "expected DCP_SHARDING_INFO of torch's writer"),
        ("[1]", "expected DCP_SHARDING_INFO"),
        (json.dumps({"w": {}}), "expected DCP_SHARDING_INFO"),
        (json.dumps({"w": {"saved_offsets": ["x"]}}), "which part of tensor 'w' it holds"),
        (json.dumps({"w": {"saved_offsets": [-1]}}), "which part of tensor 'w' it holds"),
        (json.dumps({"w": {"saved_offsets": [0, 0]}}), "which part of tensor 'w' it holds"),
        (json.dumps({"w": {"saved_offsets": [1]}}), "do not make up a whole"),
        (json.dumps({"w": {"saved_offsets": 3}}), "expected DCP_SHARDING_INFO"),
    ],
)
def test_pieces_that_do_not_say_their_place_are_an_error(tmp_path, sharding, message):
    metadata = {"format": "pt"} if sharding is None else {"DCP_SHARDING_INFO": sharding}
    path = tmp_path / "shard-00001-model-00001-of-00001.safetensors"
    safetensors.numpy.save_file({"w": np.ones(3)}, path, metadata)
    assert message in refusal(tmp_path)


def test_a_piece_given_alone_is_refused(folder):
    """Two ranks' pieces have the same names, and would be averaged with each other."""
    for path in folder.iterdir():
        assert "one rank's piece of the tensors of a checkpoint; give its folder" in refusal(path)
