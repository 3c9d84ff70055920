"""Outputs appear whole or not at all, and nothing else is left behind or overwritten."""

import errno
import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest
import torch

from swa_tools.checkpoints import (
    SafetensorsWriter,
    atomic_output,
    check_output,
    file_metadata,
    open_checkpoint,
    write_checkpoint,
)
from swa_tools.checkpoints import writer as writer_module
from swa_tools.errors import OutputError

ARRAYS = {"w": np.arange(10_000, dtype=np.float32), "b": np.ones(3)}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[False, True], ids=["new", "existing"])
def output(request, tmp_path):
    """Give an output that does not exist, or one that does; check that it is as before."""
    path = tmp_path / "out.safetensors"
    if request.param:
        path.write_bytes(b"the earlier one")
        path.chmod(0o640)
    yield path
    assert names_in(tmp_path) == (["out.safetensors"] if request.param else [])
    if request.param:
        assert path.read_bytes() == b"the earlier one"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


class TestFailures:
    """The fixture `output` checks afterwards that nothing has changed."""

    @pytest.mark.parametrize(
        "error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError]
    )
    def test_an_error_in_the_block_passes_through(self, output, error):
        def write_half():
            with atomic_output(output, force=True) as file:
                file.write(b"half of it")
                raise error

        with pytest.raises(error):
            write_half()

    def test_a_full_disk_is_an_output_error(self, output):
        with (
            pytest.raises(OutputError, match="cannot write it: No space left on device"),
            atomic_output(output, force=True),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @pytest.mark.parametrize("call", ["fsync", "replace", "pwrite"])
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
    def test_every_failing_call_is_an_output_error(self, output, monkeypatch, call, code):
        def fail(*_arguments):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(writer_module.os, call, fail)
        with pytest.raises(OutputError, match=f"cannot write it: {os.strerror(code)}"):
            write_checkpoint(output, ARRAYS, None, force=True)

    def test_a_file_limit_is_an_output_error(self, output, tmp_path):
        """A real failure of write, in the middle of the data."""
        script = textwrap.dedent("""
            import resource, signal, sys
            import numpy as np
            from swa_tools.checkpoints import write_checkpoint
            from swa_tools.errors import OutputError

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            try:
                write_checkpoint(sys.argv[1], {"w": np.ones(10_000)}, None, force=True)
            except OutputError as error:
                print(error)
        """)
        finished = run_script(script, output)
        assert "out.safetensors: cannot write it: File too large" in finished.stdout

    def test_an_interrupted_writer_leaves_nothing(self, output):
        script = textwrap.dedent("""
            import os, signal, sys
            from swa_tools.checkpoints import atomic_output

            with atomic_output(sys.argv[1], force=True) as file:
                file.write(b"half of it")
                file.flush()
                os.kill(os.getpid(), signal.SIGINT)
        """)
        assert run_script(script, output).returncode == -signal.SIGINT


def run_script(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_what_was_written_is_there_whole(tmp_path):
    with atomic_output(tmp_path / "a.txt") as file:
        file.write(b"hello")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_bytes() == b"hello"
    assert names_in(tmp_path) == ["a.txt"]


def test_positioned_writes_and_writes_in_order_go_together(tmp_path):
    with atomic_output(tmp_path / "a.txt") as file:
        os.pwrite(file.fileno(), b"world", 5)
        file.write(b"hello")
    assert (tmp_path / "a.txt").read_bytes() == b"helloworld"


def test_a_relative_path_and_one_without_a_folder_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint("a.safetensors", ARRAYS, None)
    (tmp_path / "sub").mkdir()
    write_checkpoint("sub/../b.safetensors", ARRAYS, None)
    assert names_in(tmp_path) == ["a.safetensors", "b.safetensors", "sub"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o000])
def test_permissions_are_those_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_checkpoint(tmp_path / "a.safetensors", ARRAYS, None)
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode)
    assert mode == 0o666 & ~umask


def test_an_existing_output_needs_force(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"earlier")
    with pytest.raises(OutputError, match="a.safetensors: it exists already; choose another name"):
        write_checkpoint(path, ARRAYS, None)
    assert path.read_bytes() == b"earlier"
    write_checkpoint(path, ARRAYS, None, force=True)
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("w"), ARRAYS["w"])


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "a.txt"

    def write():
        with atomic_output(path) as file:
            file.write(b"mine")
            path.write_bytes(b"somebody else's")

    with pytest.raises(OutputError, match="it exists already"):
        write()
    assert path.read_bytes() == b"somebody else's"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_link_that_leads_nowhere_counts_as_existing(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(OutputError, match="link: it exists already"):
        write_checkpoint(tmp_path / "link", ARRAYS, None)


def test_force_replaces_a_link_not_what_it_leads_to(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("precious")
    write_checkpoint(tmp_path / "link", ARRAYS, None, force=True)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "it is a device or a pipe"),
        (make_socket, "it is a device or a pipe"),
        (os.mkdir, "it is a folder"),
    ],
)
def test_what_is_no_file_is_not_replaced_even_with_force(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "out"
    make(path)
    before = path.lstat()
    with pytest.raises(OutputError, match=f"out: cannot write it: {message}"):
        write_checkpoint(path, ARRAYS, None, force=True)
    assert path.lstat() == before
    assert names_in(tmp_path) == ["out"]


def test_a_device_is_not_replaced_even_with_force():
    with pytest.raises(OutputError, match="/dev/null: cannot write it: it is a device"):
        check_output(Path("/dev/null"), force=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone/out", "there is no folder .*/gone$"),
        ("file/out", "cannot write it: Not a directory"),
        ("x" * 300, "cannot write it: File name too long"),
        ("x" * 250, "cannot write it: File name too long"),
        ("loop/out", "cannot write it: Too many levels"),
    ],
)
def test_an_output_that_cannot_be_is_an_error(tmp_path, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = names_in(tmp_path)
    with pytest.raises(OutputError, match=message):
        write_checkpoint(tmp_path / name, ARRAYS, None)
    assert names_in(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (0o555, "cannot write it: no permission to write in"),
        (0o000, "cannot write it: (Permission denied|no permission)"),
        (0o311, None),
        (0o777, None),
    ],
)
def test_a_folder_without_permission_is_an_error_of_one_line(mode, message, shared_folder):
    """Root may do everything, so another user tries."""
    script = textwrap.dedent("""
        import os, sys
        import numpy as np
        from swa_tools.checkpoints import write_checkpoint
        from swa_tools.errors import OutputError

        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            write_checkpoint(sys.argv[1], {"w": np.ones(3)}, None)
        except OutputError as error:
            print(error)
    """)
    os.chown(shared_folder, 65534, 65534)
    shared_folder.chmod(mode)
    finished = run_script(script, shared_folder / "out.safetensors")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    if message is None:
        assert finished.stdout == ""
        assert names_in(shared_folder) == ["out.safetensors"]
    else:
        assert re.search(message, finished.stdout), finished.stdout
        assert names_in(shared_folder) == []


@pytest.fixture
def shared_folder():
    """Give a folder that every user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        inner = Path(folder) / "inner"
        inner.mkdir()
        yield inner


class TestAbandonedFiles:
    """What a killed writer leaves behind."""

    def abandoned(self, folder, name="out.safetensors"):
        path = folder / f".{name}.0123456789ab.tmp"
        path.write_bytes(b"half of it")
        return path

    def test_the_next_writer_removes_them(self, tmp_path):
        self.abandoned(tmp_path)
        write_checkpoint(tmp_path / "out.safetensors", ARRAYS, None)
        assert names_in(tmp_path) == ["out.safetensors"]

    def test_those_of_other_outputs_stay(self, tmp_path):
        other = self.abandoned(tmp_path, "other.safetensors")
        write_checkpoint(tmp_path / "out.safetensors", ARRAYS, None)
        assert other.exists()

    def test_one_that_is_being_written_stays(self, tmp_path):
        path = self.abandoned(tmp_path)
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            write_checkpoint(tmp_path / "out.safetensors", ARRAYS, None)
            assert path.exists()

    def test_a_name_with_the_characters_of_a_pattern_removes_its_own_alone(self, tmp_path):
        mine, other = self.abandoned(tmp_path, "out[1]"), self.abandoned(tmp_path, "out1")
        write_checkpoint(tmp_path / "out[1]", ARRAYS, None)
        assert other.exists()
        assert not mine.exists()

    def test_a_killed_writer_leaves_one_that_the_next_removes(self, tmp_path):
        script = textwrap.dedent("""
            import os, signal, sys
            from swa_tools.checkpoints import atomic_output

            with atomic_output(sys.argv[1]) as file:
                os.kill(os.getpid(), signal.SIGKILL)
        """)
        path = tmp_path / "out.safetensors"
        assert run_script(script, path).returncode == -signal.SIGKILL
        assert len(names_in(tmp_path)) == 1
        write_checkpoint(path, ARRAYS, None)
        assert names_in(tmp_path) == ["out.safetensors"]

    def test_two_writers_at_once_do_not_disturb_each_other(self, tmp_path):
        path = tmp_path / "out.txt"
        with atomic_output(path, force=True) as first:
            first.write(b"first")
            with atomic_output(path, force=True) as second:
                second.write(b"second")
            assert path.read_bytes() == b"second"
        assert path.read_bytes() == b"first"
        assert names_in(tmp_path) == ["out.txt"]


class TestFolderSync:
    """Fsync of the folder, which not every file system can do."""

    def fail_on_folders(self, monkeypatch, code):
        real = os.fsync

        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(code, os.strerror(code))
            real(descriptor)

        monkeypatch.setattr(writer_module.os, "fsync", fsync)

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
    def test_a_file_system_that_cannot_is_no_error(self, tmp_path, monkeypatch, code):
        self.fail_on_folders(monkeypatch, code)
        write_checkpoint(tmp_path / "a.safetensors", ARRAYS, None)
        assert names_in(tmp_path) == ["a.safetensors"]

    def test_one_that_fails_is_an_error_and_the_output_is_whole(self, tmp_path, monkeypatch):
        self.fail_on_folders(monkeypatch, errno.EIO)
        with pytest.raises(OutputError, match="cannot write it: Input/output error"):
            write_checkpoint(tmp_path / "a.safetensors", ARRAYS, None)
        with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
            np.testing.assert_array_equal(checkpoint.read("w"), ARRAYS["w"])


class TestSafetensorsWriter:
    def test_tensors_are_written_in_any_order_and_in_pieces(self, tmp_path):
        layout = {"a": ("F64", (4,)), "b": ("U8", (3,)), "c": ("F32", (0,))}
        path = tmp_path / "a.safetensors"
        with atomic_output(path) as file:
            writer = SafetensorsWriter(file, layout, {})
            writer.write("b", 1, b"\2\3")
            writer.write("a", 16, np.array([3.0, 4.0]).data)
            writer.write("b", 0, memoryview(b"\1"))
            writer.write("a", 0, np.array([1.0, 2.0]).tobytes())
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("a").tolist() == [1, 2, 3, 4]
            assert checkpoint.read("b").tolist() == [1, 2, 3]
            assert checkpoint.read("c").size == 0

    def test_writes_that_are_short_are_completed(self, tmp_path, monkeypatch):
        real = os.pwrite
        monkeypatch.setattr(
            writer_module.os, "pwrite", lambda fd, data, at: real(fd, data[:999], at)
        )
        write_checkpoint(tmp_path / "a.safetensors", ARRAYS, None)
        monkeypatch.undo()
        with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
            np.testing.assert_array_equal(checkpoint.read("w"), ARRAYS["w"])

    def test_metadata_of_the_same_length_replaces_a_placeholder(self, tmp_path):
        path = tmp_path / "a.safetensors"
        with atomic_output(path) as file:
            writer = SafetensorsWriter(file, {"w": ("U8", (1,))}, {"digest": "0000"})
            writer.write("w", 0, b"\7")
            writer.replace_metadata({"digest": "abcd"})
            with pytest.raises(ValueError, match="metadata of another length"):
                writer.replace_metadata({"digest": "a" * 100})
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("w").tolist() == [7]
        assert b'"digest":"abcd"' in path.read_bytes()

    def test_the_same_tensors_give_the_same_bytes(self, tmp_path):
        metadata = file_metadata(None, {"b": "a"})
        assert metadata == {"format": "pt", "b": "a"}
        write_checkpoint(tmp_path / "1.safetensors", ARRAYS, None)
        write_checkpoint(tmp_path / "2.safetensors", dict(reversed(ARRAYS.items())), None)
        assert (tmp_path / "1.safetensors").read_bytes() == (
            tmp_path / "2.safetensors"
        ).read_bytes()


def test_every_file_that_is_opened_is_closed(tmp_path):
    n_open = len(os.listdir("/dev/fd"))
    for number in range(20):
        write_checkpoint(tmp_path / f"{number}.safetensors", ARRAYS, None)
    assert len(os.listdir("/dev/fd")) == n_open


class TestTheNameSaysTheFormat:
    ARRAYS: ClassVar = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array(7),
        "h": np.ones(4, ml_dtypes.bfloat16),
    }

    @pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "x.ckpt", "x.pth.tar", "X.PTH"])
    def test_torch_loads_what_has_a_name_of_torch_files(self, tmp_path, name):
        path = tmp_path / name
        write_checkpoint(path, self.ARRAYS, None, ties={"tied": "b"})
        loaded = torch.load(path, weights_only=True)
        assert loaded.keys() == {*self.ARRAYS, "tied"}
        for tensor_name, array in self.ARRAYS.items():
            assert loaded[tensor_name].tolist() == array.tolist()
        assert loaded["tied"].data_ptr() == loaded["b"].data_ptr()
        assert loaded["h"].dtype == torch.bfloat16
        assert os.listdir(tmp_path) == [name]
        with open_checkpoint(path) as checkpoint:
            np.testing.assert_array_equal(checkpoint.read("b"), self.ARRAYS["b"])

    @pytest.mark.parametrize("name", ["x.npz", "x.h5", "x.tar"])
    def test_names_of_other_formats_are_refused(self, tmp_path, name):
        with pytest.raises(OutputError, match="the name of an output says its format: expected .s"):
            write_checkpoint(tmp_path / name, self.ARRAYS, None)
        assert os.listdir(tmp_path) == []

    def test_a_failure_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def full_disk(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(torch, "save", full_disk)
        with pytest.raises(OutputError, match="x.pth: cannot write it: No space left"):
            write_checkpoint(tmp_path / "x.pth", self.ARRAYS, None)
        assert os.listdir(tmp_path) == []
