"""Opening and reading: what is in the file comes out, and a file that changes is an error."""

import errno
import os
import resource
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from swa_tools.checkpoints import (
    BnInfo,
    CheckpointMetadata,
    open_checkpoint,
    read_metadata,
    write_checkpoint,
)
from swa_tools.checkpoints import files as files_module
from swa_tools.errors import CheckpointError

METADATA = CheckpointMetadata(kind="checkpoint", bn=BnInfo(state="none"), swa_tools="0.1.0")
ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv.bias": np.array([1.5, -2], ml_dtypes.bfloat16),
    "steps": np.array(7),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float16),
}


@pytest.fixture
def checkpoint_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, ARRAYS, METADATA)
    return path


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_was_written_is_read(checkpoint_file, read_all):
    assert_same(read_all(checkpoint_file), ARRAYS)
    assert read_metadata(checkpoint_file) == METADATA


def test_arrays_are_the_callers_to_change(checkpoint_file):
    with open_checkpoint(checkpoint_file) as checkpoint:
        first = checkpoint.read("conv.weight")
        first += 1
        np.testing.assert_array_equal(checkpoint.read("conv.weight"), ARRAYS["conv.weight"])


def test_the_content_decides_not_the_name(checkpoint_file, read_all):
    path = checkpoint_file.rename(checkpoint_file.with_suffix(".bin"))
    assert_same(read_all(path), ARRAYS)


def test_a_part_of_a_tensor_is_read_from_its_place(checkpoint_file):
    buffer = bytearray(8)
    with open_checkpoint(checkpoint_file) as checkpoint:
        checkpoint.read_into("conv.weight", 12, memoryview(buffer))
    assert np.frombuffer(buffer, np.float32).tolist() == [3, 4]


@pytest.mark.parametrize("folder_file", ["model.safetensors", "model.safetensors.index.json"])
def test_a_model_folder_is_read(tmp_path, sharded, read_all, folder_file):
    folder = tmp_path / "vit"
    if folder_file.endswith("json"):
        sharded(folder, [["conv.weight", "steps"], ["conv.bias", "mask", "empty"]], ARRAYS)
    else:
        folder.mkdir()
        write_checkpoint(folder / folder_file, ARRAYS, None)
    (folder / "config.json").write_text("{}")
    assert_same(read_all(folder), ARRAYS)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.name == "vit"


def test_the_folder_that_one_stands_in_has_a_name(checkpoint_file, monkeypatch):
    checkpoint_file.rename(checkpoint_file.parent / "model.safetensors")
    monkeypatch.chdir(checkpoint_file.parent)
    with open_checkpoint(".") as checkpoint:
        assert checkpoint.name == checkpoint_file.parent.name


def test_a_name_that_is_no_text_is_replaced_where_it_is_written_down(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")
    try:
        write_checkpoint(path, ARRAYS, None)
    except OSError:
        pytest.skip("this file system allows no such names")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.name == "\ufffd.safetensors"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no weights in this folder: expected model.safetensors"),
        (os.mkfifo, "not a checkpoint: it is a device or a pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a checkpoint: it is a device or a pipe"),
        (lambda path: path.symlink_to(path), "cannot open it: Too many levels"),
    ],
    ids=["missing", "folder", "pipe", "device", "loop"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".safetensors.index.json"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make, message, suffix):
    path = tmp_path / f"x{suffix}"
    make(path)
    with pytest.raises(CheckpointError, match=f"x{suffix}: {message}"):
        open_checkpoint(path)


def test_a_name_that_no_file_can_have_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot open it: File name too long"):
        open_checkpoint(tmp_path / ("x" * 300))
    with pytest.raises(CheckpointError, match="cannot open it: .*null"):
        open_checkpoint("a\0b.safetensors")


def test_an_entry_of_safetensors_is_refused(checkpoint_file):
    with pytest.raises(CheckpointError, match="holds one set of weights; leave out --entry model"):
        open_checkpoint(checkpoint_file, entry="model")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_tied_names_lose_the_prefix_too(tmp_path, prefix):
    arrays = {f"{prefix}embedding": np.ones(2), f"{prefix}bias": np.ones(1)}
    ties = {f"{prefix}head": f"{prefix}embedding"}
    write_checkpoint(tmp_path / "a.safetensors", arrays, None, ties=ties)
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert checkpoint.ties == {"head": "embedding"}
        assert list(checkpoint.tensors) == ["bias", "embedding"]


def test_metadata_that_is_no_tie_is_none(tmp_path):
    metadata = {"format": "pt", "note": "weight is a tensor", "w": "w", "author": "nobody"}
    safetensors.numpy.save_file({"w": np.ones(1)}, tmp_path / "a.safetensors", metadata)
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert checkpoint.ties == {}


def test_broken_metadata_closes_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"w": np.ones(1)}, path, {"swa_tools": "{"})
    n_open = len(os.listdir("/dev/fd"))
    with pytest.raises(CheckpointError, match="swa_tools metadata is not JSON"):
        open_checkpoint(path)
    assert len(os.listdir("/dev/fd")) == n_open


def test_layouts_that_are_equal_are_shared_whatever_the_metadata(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", ARRAYS, None)
    write_checkpoint(tmp_path / "b.safetensors", ARRAYS, METADATA)
    write_checkpoint(tmp_path / "c.safetensors", {"w": np.ones(1)}, METADATA)
    a, b, c = (open_checkpoint(tmp_path / f"{name}.safetensors") for name in "abc")
    with a, b, c:
        b.share_layout(a)
        c.share_layout(a)
        assert b.tensors is a.tensors
        assert list(c.tensors) == ["w"]
        np.testing.assert_array_equal(b.read("conv.weight"), ARRAYS["conv.weight"])


class TestFilesThatChange:
    """A writer that is not done yet, while somebody reads."""

    @pytest.fixture
    def large_file(self, tmp_path):
        path = tmp_path / "a.safetensors"
        write_checkpoint(path, {"w": np.arange(100_000, dtype=np.float64)}, None)
        return path

    def test_a_file_that_becomes_shorter_is_an_error(self, large_file):
        with open_checkpoint(large_file) as checkpoint:
            os.truncate(large_file, 1000)
            with pytest.raises(CheckpointError, match="it became shorter while it was read"):
                checkpoint.read("w")
            with pytest.raises(CheckpointError, match="it changed while it was read"):
                checkpoint.check_unchanged()

    def test_a_file_that_changes_in_place_is_an_error_in_the_end(self, large_file):
        with open_checkpoint(large_file) as checkpoint:
            before = os.stat(large_file).st_mtime_ns
            with large_file.open("r+b") as file:
                file.seek(5000)
                file.write(b"x")
            os.utime(large_file, ns=(before + 10, before + 10))
            with pytest.raises(
                CheckpointError, match="a.safetensors: it changed while it was read"
            ):
                checkpoint.digest()

    def test_a_file_that_is_replaced_is_read_as_it_was(self, large_file):
        """A rename leaves the opened file as it is: nothing has changed."""
        with open_checkpoint(large_file) as checkpoint:
            write_checkpoint(large_file, {"w": np.zeros(1)}, None, force=True)
            assert checkpoint.read("w")[-1] == 99_999
            checkpoint.check_unchanged()

    def test_reads_that_return_short_are_completed(self, large_file, monkeypatch):
        real = os.preadv

        def short(descriptor, buffers, position):
            return real(descriptor, [buffers[0][:777]], position)

        with open_checkpoint(large_file) as checkpoint:
            monkeypatch.setattr(os, "preadv", short)
            np.testing.assert_array_equal(checkpoint.read("w"), np.arange(100_000.0))

    def test_a_header_that_is_read_in_pieces_is_completed(self, large_file, monkeypatch):
        real = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, parts, at: real(fd, [parts[0][:3]], at))
        with open_checkpoint(large_file) as checkpoint:
            assert checkpoint.tensors["w"].shape == (100_000,)

    @pytest.mark.parametrize("call", ["preadv", "fstat"])
    def test_a_disk_that_fails_is_an_error_that_names_the_file(self, large_file, monkeypatch, call):
        def fail(*_arguments):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        n_open = len(os.listdir("/dev/fd"))
        monkeypatch.setattr(files_module.os, call, fail)
        with pytest.raises(CheckpointError, match="a.safetensors: cannot .*: Input/output error"):
            open_checkpoint(large_file)
        monkeypatch.undo()
        assert len(os.listdir("/dev/fd")) == n_open

    def test_a_disk_that_fails_in_a_tensor_names_it(self, large_file, monkeypatch):
        def fail(*_arguments):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with open_checkpoint(large_file) as checkpoint:
            monkeypatch.setattr(os, "preadv", fail)
            with pytest.raises(CheckpointError, match="cannot read tensor 'w': Input/output error"):
                checkpoint.read("w")


LIMITED = """
import resource, sys
import numpy as np
from swa_tools.checkpoints import open_checkpoint

resource.setrlimit(resource.RLIMIT_NOFILE, (16, int(sys.argv[2])))
opened = [open_checkpoint(sys.argv[1]) for _ in range(40)]
print(len(opened))
"""


@pytest.mark.parametrize(("limit", "printed"), [("100", "40"), ("32", "Too many open files")])
def test_more_files_than_the_soft_limit_can_be_open(checkpoint_file, limit, printed):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 100:
        pytest.skip("the hard limit here is too low")
    finished = subprocess.run(
        [sys.executable, "-c", LIMITED, checkpoint_file, limit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed in finished.stdout + finished.stderr
