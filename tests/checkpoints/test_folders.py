"""A folder of somebody's checkpoints."""

import numpy as np
import pytest
import torch

from swa_tools.checkpoints import find_checkpoints, write_checkpoint
from swa_tools.checkpoints.folders import list_folder
from swa_tools.errors import CheckpointError

OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def save(folder, *names, shape=(3,)):
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            write_checkpoint(path, {"w": np.full(shape, k)}, None)
        else:
            torch.save({"state_dict": {"w": torch.full(shape, float(k))}}, path)


def test_the_checkpoints_in_a_folder_are_found_and_what_is_none_is_named(tmp_path):
    save(tmp_path, "epoch-10.pth", "epoch-9.pth", "epoch-1.pth", "last.pth", "model_best.pth")
    save(tmp_path, "notes.txt", ".hidden.pth", "deeper/epoch-11.pth")
    torch.save(OPTIMIZER, tmp_path / "optimizer-10.pt")
    torch.save(OPTIMIZER, tmp_path / "moments-10.pt")
    torch.save({"epoch": 3, "log": [1, 2]}, tmp_path / "log.pth")
    listing = list_folder(tmp_path)
    assert [path.name for path in listing.checkpoints] == [f"epoch-{k}.pth" for k in (1, 9, 10)]
    assert {path.name: reason for path, reason in listing.left_out.items()} == {
        "optimizer-10.pt": "by its name it holds no weights",
        "moments-10.pt": "it holds no weights",
        "log.pth": "it holds no weights",
        "last.pth": "by its name it repeats or combines others",
        "model_best.pth": "by its name it repeats or combines others",
    }
    named = []
    found = find_checkpoints([tmp_path], on_left_out=lambda path, reason: named.append(path))
    assert (found, named) == (listing.checkpoints, list(listing.left_out))


def test_names_without_any_numbers_are_all_taken(tmp_path):
    save(tmp_path, "best.pth", "last.pth")
    assert [path.name for path in list_folder(tmp_path).checkpoints] == ["best.pth", "last.pth"]


def test_the_model_folders_of_a_trainer_are_checkpoints(tmp_path):
    names = [f"checkpoint-{k}/model.safetensors" for k in (500, 1000)]
    save(tmp_path, *names, "runs/events.pth")
    found = find_checkpoints([tmp_path])
    assert found == [tmp_path / "checkpoint-500", tmp_path / "checkpoint-1000"]


def test_a_folder_with_several_models_lists_them_with_their_patterns(tmp_path):
    save(tmp_path, "vit-1.pth", "vit-2.pth", "vit-3.pth")
    save(tmp_path, "cnn_e1.pth", "cnn_e2.pth", shape=(4,))
    save(tmp_path, "probe.pth", shape=(5,))
    (tmp_path / "probe.pth").rename(tmp_path / "probe-7.pth")
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints([tmp_path])
    assert str(caught.value) == (
        f"{tmp_path}: checkpoints of 3 models in this folder; give those of one:"
        f" '{tmp_path}/cnn_e*.pth' (2); '{tmp_path}/probe-7.pth' (1); '{tmp_path}/vit-*.pth' (3)"
    )


def test_a_damaged_checkpoint_is_an_error_and_never_passed_over(tmp_path):
    save(tmp_path, "epoch-1.pth", "epoch-2.pth")
    content = (tmp_path / "epoch-2.pth").read_bytes()
    (tmp_path / "epoch-2.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"epoch-2.pth: not a checkpoint that can be read"):
        find_checkpoints([tmp_path])


def test_the_shards_of_a_checkpoint_are_no_checkpoints(tmp_path):
    save(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoints in this folder"):
        find_checkpoints([tmp_path])
