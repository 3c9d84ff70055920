"""From arguments to checkpoints: run directories, folders, globs, order."""

import os
import sys

import numpy as np
import pytest

from swa_tools.checkpoints import find_checkpoints, write_checkpoint
from swa_tools.errors import CheckpointError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def run(tmp_path):
    touch(tmp_path / "run", "run.json", "start.safetensors", "ema/cycle-001.safetensors")
    names = [f"cycle-{i}.safetensors" for i in (10, 9, 1)]
    touch(tmp_path / "run/checkpoints", *names, "notes.txt", ".cycle-2.safetensors.ab12.tmp")
    return tmp_path / "run"


def test_a_run_directory_is_its_captures_in_natural_order(run):
    found = [path.relative_to(run).as_posix() for path in find_checkpoints([run])]
    assert found == [f"checkpoints/cycle-{i}.safetensors" for i in (1, 9, 10)]


def test_hidden_files_are_no_captures(run):
    """MacOS leaves `._NAME` beside every file on a foreign disk."""
    touch(run / "checkpoints", "._cycle-1.safetensors", ".hidden.safetensors")
    assert len(find_checkpoints([run])) == 3


def test_a_run_directory_without_captures_is_an_error(run):
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="run: this run has no captures yet"):
        find_checkpoints([run])


def test_arguments_keep_their_order_and_each_expands_in_natural_order(tmp_path):
    touch(tmp_path, "b-10.pth", "b-9.pth", "b-1.pth", "a.safetensors", "sub/c.pth")
    found = find_checkpoints([f"{tmp_path}/b-*.pth", tmp_path / "a.safetensors"])
    assert [path.name for path in found] == ["b-1.pth", "b-9.pth", "b-10.pth", "a.safetensors"]
    assert [path.name for path in find_checkpoints([f"{tmp_path}/**/c.pth"])] == ["c.pth"]


def test_names_that_differ_in_zeros_alone_have_one_order(tmp_path):
    names = ["e-001", "e-01", "e-1", "e-02", "e-2"]
    touch(tmp_path, *names)
    assert [path.name for path in find_checkpoints([f"{tmp_path}/e-*"])] == names


def test_a_name_with_the_characters_of_a_pattern_is_taken_as_it_is(tmp_path):
    touch(tmp_path, "a[1].pth", "a1.pth")
    assert find_checkpoints([tmp_path / "a[1].pth"]) == [tmp_path / "a[1].pth"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_model_folder_is_one_checkpoint(tmp_path, name):
    touch(tmp_path / "vit", name, "config.json")
    assert find_checkpoints([tmp_path / "vit"]) == [tmp_path / "vit"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("gone.safetensors", "gone.safetensors: no such file"),
        ("*.nothing", "no file matches this pattern"),
        ("folder", "folder: no checkpoints in this folder: expected a run directory"),
        ("link", "link: no such file"),
        ("loop", "loop: cannot open it: Too many levels of symbolic links"),
        ("x" * 300, "cannot open it: File name too long"),
        ("a\0b", "cannot open it: embedded null byte"),
        ("folder/file/more", "cannot open it: Not a directory"),
    ],
)
def test_an_argument_that_names_nothing_is_an_error(tmp_path, argument, message):
    touch(tmp_path, "folder/file")
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match=message):
        find_checkpoints([tmp_path / argument])


@pytest.mark.skipif(sys.platform != "linux", reason="macOS allows no such names")
def test_a_name_that_is_no_text_is_found_and_named(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff-1.safetensors"
    write_checkpoint(os.fsdecode(path), {"w": np.ones(1)}, None)
    (found,) = find_checkpoints([f"{tmp_path}/*.safetensors"])
    assert os.fsencode(found) == path
