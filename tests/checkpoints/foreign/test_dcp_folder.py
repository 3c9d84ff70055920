"""Folders of torch.distributed.checkpoint, written by torch on ranks."""

import os
import pickle
import re
import shutil
import time

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from swa_tools.averaging import average_checkpoints
from swa_tools.checkpoints import content_digest, find_checkpoints, open_checkpoint
from swa_tools.errors import CheckpointError

N_RANKS = 3


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "rows": torch.randn(7, 3, generator=generator),
        "columns": torch.randn(4, 6, generator=generator),
        "middle": torch.randn(2, 9, 3, generator=generator).bfloat16(),
        "stacked": torch.randn(1, 6, 5, generator=generator),
        "uneven": torch.randn(2, generator=generator),
        "whole": torch.randn(5, generator=generator),
        "scalar": torch.tensor(2.5),
        "bn.num_batches_tracked": torch.tensor(3),
    }


def save_on_a_rank(context, folder):
    """Save as FSDP, tensor parallelism and a plain model do: cut, and beside an optimizer."""
    mesh = init_device_mesh("cpu", (context.world_size,))
    cuts = {"rows": 0, "columns": 1, "middle": 1, "stacked": 1, "uneven": 0}
    model = {
        name: distribute_tensor(tensor, mesh, [Shard(cuts[name])]) if name in cuts else tensor
        for name, tensor in tensors().items()
    }
    optimizer = {"state": {"rows": {"exp_avg": model["rows"]}}, "param_groups": [{"lr": 0.1}]}
    dcp.save({"model": model, "optimizer": optimizer, "step": 7}, checkpoint_id=folder)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tmp_path_factory.mktemp("dcp") / "step-7"


@pytest.fixture
def folder(original, on_ranks, tmp_path):
    """Give a copy of a folder that three ranks wrote."""
    if not original.exists():
        on_ranks(save_on_a_rank, original, world_size=N_RANKS)
    return shutil.copytree(original, tmp_path / "step-7")


def change(folder, edit):
    with open(folder / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_every_way_to_cut_a_tensor_is_put_together(folder):
    assert len(list(folder.glob("*.distcp"))) == N_RANKS
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.tensors) == set(tensors())
        assert checkpoint.notes == ("the weights are those under 'model'",)
        for name, tensor in tensors().items():
            assert checkpoint.tensors[name].shape == tuple(tensor.shape)
            expected = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert checkpoint.read_bytes(name) == expected
            for offset in range(0, len(expected) - 5, 3):
                part = bytearray(5)
                checkpoint.read_into(name, offset, memoryview(part))
                assert part == expected[offset : offset + 5]
        checkpoint.check_unchanged()


def test_it_is_averaged_with_files_of_other_formats(folder, tmp_path):
    torch.save({name: tensor + 2 for name, tensor in tensors().items()}, tmp_path / "other.pth")
    (tmp_path / "both").mkdir()
    shutil.move(folder, tmp_path / "both/step-7")
    found = [*find_checkpoints([tmp_path / "both"]), tmp_path / "other.pth"]
    average_checkpoints(found, tmp_path / "average.safetensors")
    with open_checkpoint(tmp_path / "average.safetensors") as checkpoint:
        for name in ("rows", "columns", "uneven", "scalar"):
            np.testing.assert_allclose(checkpoint.read(name), tensors()[name] + 1, rtol=1e-6)


def test_other_sets_are_chosen_by_their_path(folder):
    with open_checkpoint(folder, entry="optimizer.state.rows") as checkpoint:
        assert list(checkpoint.tensors) == ["exp_avg"]
    with pytest.raises(CheckpointError, match="no weights under 'ema'; it holds: 'model'"):
        open_checkpoint(folder, entry="ema")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_conjugated_and_negated_views_are_read_as_their_numbers(tmp_path):
    conjugated = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64).conj()
    state = {"conj": conjugated, "neg": torch._neg_view(torch.ones(2))}
    dcp.save(state, checkpoint_id=tmp_path / "flat", no_dist=True)
    with open_checkpoint(tmp_path / "flat") as checkpoint:
        assert checkpoint.read("conj").tolist() == [1 - 2j, 3 + 4j]
        assert checkpoint.read("neg").tolist() == [-1, -1]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_tensor_without_elements_is_read(tmp_path):
    state = {"weight": torch.ones(3), "none": torch.ones(0, 3)}
    dcp.save(state, checkpoint_id=tmp_path / "flat", no_dist=True)
    with open_checkpoint(tmp_path / "flat") as checkpoint:
        assert checkpoint.read("none").shape == (0, 3)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_folder_without_nested_dictionaries_is_read(tmp_path):
    state = {"weight": torch.ones(3), "bias": torch.zeros(2)}
    dcp.save(state, checkpoint_id=tmp_path / "flat", no_dist=True)
    with open_checkpoint(tmp_path / "flat") as checkpoint:
        assert checkpoint.read("weight").tolist() == [1, 1, 1]
        assert set(checkpoint.tensors) == {"weight", "bias"}


class TestFoldersThatAreRefused:
    def refusal(self, folder):
        n_open = len(os.listdir("/dev/fd"))
        with pytest.raises(CheckpointError) as caught:
            content_digest(folder)
        assert len(os.listdir("/dev/fd")) == n_open
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    def test_a_piece_that_is_missing_from_the_metadata(self, folder):
        def edit(metadata):
            del metadata.state_dict_metadata["model.rows"].chunks[1]

        change(folder, edit)
        assert "tensor 'rows': its pieces do not make up [7, 3]" in self.refusal(folder)

    @pytest.mark.parametrize("name", ["rows", "columns"])
    def test_pieces_that_overlap(self, folder, name):
        def edit(metadata):
            chunks = metadata.state_dict_metadata[f"model.{name}"].chunks
            chunks[1].offsets, chunks[1].sizes = chunks[0].offsets, chunks[0].sizes

        change(folder, edit)
        assert f"tensor {name!r}: its pieces do not make up" in self.refusal(folder)

    def test_a_file_outside_of_the_folder(self, folder):
        def edit(metadata):
            for info in metadata.storage_data.values():
                info.relative_path = "../secret"

        change(folder, edit)
        assert "it names a file outside its folder, '../secret'" in self.refusal(folder)

    def test_pieces_of_two_tensors_that_overlap(self, folder):
        def edit(metadata):
            spans = {index.fqn: info for index, info in metadata.storage_data.items()}
            spans["model.whole"].__dict__ = spans["model.scalar"].__dict__

        change(folder, edit)
        assert re.search("pieces overlap|claims more than stands", self.refusal(folder))

    @pytest.mark.parametrize(
        "fields",
        [
            *({"relative_path": name} for name in (5, ["a"], "a\nb", "\ud800", "..")),
            *({"offset": n} for n in ("a", 0.5, -1, 2**64, None)),
        ],
        ids=repr,
    )
    def test_places_that_are_none(self, folder, fields):
        def edit(metadata):
            for info in metadata.storage_data.values():
                vars(info).update(fields)

        change(folder, edit)
        assert self.refusal(folder)

    @pytest.mark.parametrize(
        "path",
        [(), ("model", "\ud800"), ("model", "whole"), ("model", "whole", "x"), 7, ["a"] * 200],
        ids=["empty", "no text", "another's", "in another", "a number", "long"],
    )
    def test_names_that_are_none(self, folder, path):
        change(folder, lambda metadata: metadata.planner_data.update({"model.uneven": path}))
        assert self.refusal(folder)

    def test_a_name_that_takes_forever_to_print(self, folder):
        endless = []
        for _ in range(100):
            endless = [endless, endless]
        change(folder, lambda metadata: metadata.planner_data.update({"model.uneven": [endless]}))
        assert "a name without a place" in self.refusal(folder)

    def test_a_tensor_that_claims_more_than_its_file_holds(self, folder):
        def edit(metadata):
            tensor = metadata.state_dict_metadata["model.whole"]
            tensor.size = tensor.chunks[0].sizes = torch.Size([2**40])

        change(folder, edit)
        assert "tensor 'whole' claims more than stands in" in self.refusal(folder)

    def test_many_pieces_are_compared_in_little_time(self, folder):
        def edit(metadata):
            tensor = metadata.state_dict_metadata["model.columns"]
            first = next(info for i, info in metadata.storage_data.items() if "columns" in i.fqn)
            tensor.size = torch.Size([2, 5000])
            tensor.chunks = [
                ChunkStorageMetadata(torch.Size([0, k]), torch.Size([2, 1])) for k in range(5000)
            ]
            for chunk in tensor.chunks:
                metadata.storage_data[MetadataIndex("model.columns", chunk.offsets)] = first

        change(folder, edit)
        start = time.process_time()
        assert "pieces overlap at byte" in self.refusal(folder)
        assert time.process_time() - start < 10  # minutes, if each were compared with each

    def test_compressed_pieces(self, folder):
        def edit(metadata):
            for info in metadata.storage_data.values():
                info.transform_descriptors = ["zstd"]

        change(folder, edit)
        assert "its pieces are compressed or encrypted" in self.refusal(folder)

    def test_a_piece_that_is_another_tensor(self, folder):
        def edit(metadata):
            spans = {index.fqn: info for index, info in metadata.storage_data.items()}
            whole, scalar = spans["model.whole"], spans["model.bn.num_batches_tracked"]
            whole.__dict__, scalar.__dict__ = scalar.__dict__, whole.__dict__

        change(folder, edit)
        assert "stands another tensor" in self.refusal(folder)

    def test_files_that_are_missing_or_cut_off(self, folder):
        for path in folder.glob("*.distcp"):
            os.truncate(path, path.stat().st_size // 2)
        assert "cut off: tensor" in self.refusal(folder)
        for path in folder.glob("*.distcp"):
            path.unlink()
        assert "no such file" in self.refusal(folder)

    def test_metadata_that_are_something_else(self, folder):
        for content in (b"", b"x", pickle.dumps({"a": 1}), pickle.dumps([1])):
            (folder / ".metadata").write_bytes(content)
            assert "not the metadata of a torch.distributed.checkpoint" in self.refusal(folder)

    def test_code_in_the_metadata_is_not_run(self, folder, tmp_path):
        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "it-ran"),)

        def edit(metadata):
            metadata.storage_meta = Payload()

        change(folder, edit)
        with open_checkpoint(folder) as checkpoint:
            assert len(checkpoint.tensors) == len(tensors())
        assert not (tmp_path / "it-ran").exists()
