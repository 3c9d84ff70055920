import os
import shutil

import numpy as np
import pytest
import torch

from swa_tools.averaging import find_duplicates, open_all
from swa_tools.checkpoints import Checkpoint


@pytest.fixture
def found():
    def names(*paths):
        with open_all(paths) as opened:
            return [(d.checkpoint.name, d.original.name) for d in find_duplicates(opened)]

    return names


def test_links_copies_and_other_formats_of_the_same_weights_count_once(
    checkpoints, found, states, tmp_path
):
    first, second = checkpoints(*states(2))
    link, hard, copy = (tmp_path / f"{name}.safetensors" for name in ("link", "hard", "copy"))
    link.symlink_to(second)
    os.link(first, hard)
    shutil.copy(second, copy)
    pickled = tmp_path / "last.pth"
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in states(2)[1].items()}, pickled)
    assert found(first, second, link, hard, copy, pickled) == [
        ("link.safetensors", "001.safetensors"),
        ("hard.safetensors", "000.safetensors"),
        ("copy.safetensors", "001.safetensors"),
        ("last.pth", "001.safetensors"),
    ]


def test_one_number_tells_two_checkpoints_apart(checkpoints, found):
    generator = np.random.default_rng(0)
    weight = generator.normal(size=100_000).astype(np.float32)
    other = weight.copy()
    other[7] += 1e-6
    assert found(*checkpoints({"w": weight}, {"w": other})) == []


def test_only_files_that_look_alike_are_read_whole(checkpoints, states, monkeypatch):
    paths = checkpoints(*states(6), states(6)[2])
    read = []
    digest = Checkpoint.digest
    monkeypatch.setattr(Checkpoint, "digest", lambda self: read.append(self.name) or digest(self))
    with open_all(paths) as opened:
        assert len(find_duplicates(opened)) == 1
    assert sorted(read) == ["002.safetensors", "006.safetensors"]


def test_the_same_path_twice_is_one(checkpoints, found, states):
    (path,) = checkpoints(states(1)[0])
    assert found(path, path) == [(path.name, path.name)]


def test_files_that_agree_in_all_but_a_name_are_two(checkpoints, found):
    one = {"w": np.zeros(100_000), "b": np.zeros(3)}
    other = {"v": np.zeros(100_000), "b": np.zeros(3)}
    assert found(*checkpoints(one, other)) == []


def test_tensors_without_elements_and_files_without_tensors_are_no_trouble(checkpoints, found):
    assert found(*checkpoints({}, {})) == [("001.safetensors", "000.safetensors")]
    empty = {"w": np.zeros((0, 3)), "s": np.array(1.0)}
    assert found(*checkpoints(empty, {**empty, "s": np.array(2.0)})) == []
