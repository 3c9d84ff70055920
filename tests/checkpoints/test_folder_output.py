"""A model folder: whatever is in it, whole or not at all, wherever the writer stops."""

import contextlib
import os

import numpy as np
import pytest

from swa_tools.checkpoints import open_checkpoint, write_checkpoint
from swa_tools.checkpoints.folder_output import publish, temporary_folder
from swa_tools.checkpoints.sharded import WEIGHTS_FILE, build_index, split_into_shards
from swa_tools.errors import OutputError

NAMES = ("a", "b", "c")
LAYOUT = dict.fromkeys(NAMES, ("F32", (2,)))
LIMITS = {"one file": None, "two shards": 16, "three shards": 8}


class Killed(BaseException):
    """As SIGKILL: nothing in the package catches it, and cleaning up is not looked at."""


def write(output, value, limit, *, force=True):
    """Write a model whose numbers are all one value."""
    shards = split_into_shards(LAYOUT, limit)
    files = (
        {}
        if WEIGHTS_FILE in shards
        else {f"{WEIGHTS_FILE}.index.json": build_index(shards, LAYOUT)}
    )
    files["config.json"] = b"{}"
    with temporary_folder(output) as temporary:
        for file, names in shards.items():
            arrays = {name: np.full(2, value, np.float32) for name in names}
            write_checkpoint(temporary / file, arrays, None)
        publish(temporary, output, files, force=force)


def read(output):
    """Return the value of the model in a folder; None if there is no model."""
    if not {WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json"} & set(os.listdir(output)):
        return None
    with open_checkpoint(output) as checkpoint:
        values = np.concatenate([checkpoint.read(name) for name in NAMES])
    assert len(set(values)) == 1, "a mixture"
    return values[0]


@contextlib.contextmanager
def killed_at(step):
    """Stop at the given change of a name; the process does nothing after it."""
    changes = []

    def counted(change):
        def run(*arguments, **options):
            changes.append(change)
            if len(changes) > step:
                raise Killed
            return change(*arguments, **options)

        return run

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        for name in ("replace", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        yield changes


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("earlier", [*LIMITS, "nothing", "no folder"])
def test_a_reader_finds_the_earlier_model_or_none_or_the_new_one(tmp_path, earlier, limit):
    for step in range(40):
        output = tmp_path / f"{step}" / "out"
        output.parent.mkdir()
        if earlier in LIMITS:
            write(output, 1, LIMITS[earlier])
        elif earlier == "nothing":
            output.mkdir()
        before = read(output) if output.exists() else None
        with killed_at(step) as changes:
            write(output, 2, LIMITS[limit])
        found = read(output) if output.exists() else None
        assert found in (before, None, 2)
        same_shards = earlier == limit != "one file"
        assert found is not None or before is None or same_shards
        if found is None:
            assert earlier != "no folder" or not output.exists()
        write(output, 3, LIMITS[limit])
        assert read(output) == 3
        n_files = {"one file": 2, "two shards": 4, "three shards": 5}[limit]
        assert len(os.listdir(output)) == n_files
        assert os.listdir(output.parent) == ["out"]
        if len(changes) <= step:
            break
    else:
        pytest.fail("it does not end")


def test_without_force_no_earlier_model_is_replaced_and_other_files_stay(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "README.md").write_text("mine")
    write(output, 1, 8, force=False)
    with pytest.raises(OutputError, match="exists already"):
        write(output, 2, 16, force=False)
    assert read(output) == 1
    write(output, 2, 16)
    assert read(output) == 2
    assert (output / "README.md").read_text() == "mine"


def test_a_living_writer_keeps_its_folder(tmp_path):
    output = tmp_path / "out"
    with temporary_folder(output) as living:
        write(output, 1, 8)
        assert living.exists()
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_no_folder_or_has_none_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(OutputError, match="it is a file, not a folder"):
        write(tmp_path / "file", 1, 8)
    with pytest.raises(OutputError, match="No such file"):
        write(tmp_path / "no" / "out", 1, 8)
    assert (tmp_path / "file").read_bytes() == b"precious"
