import json
import subprocess
import sys

import numpy as np
import pytest

from swa_tools.averaging import average_checkpoints
from swa_tools.checkpoints import content_digest, write_checkpoint
from swa_tools.cli import run


@pytest.fixture
def call(capsys):
    def invoke(*arguments, status=0):
        assert run(["inspect", *map(str, arguments)]) == status
        return capsys.readouterr()

    return invoke


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"cycle-{k}.safetensors" for k in (1, 2)]
    for k, path in enumerate(paths):
        write_checkpoint(path, {"w": np.full((2, 3), k, np.float32), "n": np.array(0)}, None)
    return paths


def test_shapes_bytes_and_dtypes_come_from_the_header(call, files):
    document = json.loads(call(*files, "--json").out)
    first = document["checkpoints"][0]
    assert (first["n_tensors"], first["n_elements"], first["n_bytes"]) == (2, 7, 32)
    assert first["dtypes"] == {"I64": 1, "F32": 1}
    assert document["belong_together"]
    assert "They belong together" in call(*files).out


def test_files_of_different_models_are_shown_and_told_apart(call, files, tmp_path):
    write_checkpoint(tmp_path / "other.safetensors", {"v": np.zeros(2)}, None)
    document = json.loads(call(*files, tmp_path / "other.safetensors", "--json").out)
    assert not document["belong_together"]
    assert "lacks 'n' and 1 more; only it has 'v'" in document["difference"]


def test_verify_compares_sources_with_what_was_averaged(call, files, tmp_path):
    average = tmp_path / "average.safetensors"
    average_checkpoints(files, average)
    document = json.loads(call(*files, average, "--verify", "--json").out)
    assert [source["found"] for source in document["sources"]] == [content_digest(f) for f in files]
    changed = {"w": np.ones((2, 3), np.float32), "n": np.array(1)}
    write_checkpoint(files[1], changed, None, force=True)
    printed = call(*files, average, "--verify", status=1)
    assert "average.safetensors <- cycle-2.safetensors: DIFFERENT" in printed.out
    assert "its source cycle-2.safetensors is not what was averaged" in printed.err


def test_safetensors_are_inspected_and_averaged_without_torch(files, tmp_path):
    code = (
        "import sys; from swa_tools.cli import run;"
        f"assert run(['inspect', {str(files[0])!r}, {str(files[1])!r}, '--verify']) == 0;"
        f"assert run(['average', {str(files[0])!r}, {str(files[1])!r}, '-o',"
        f" {str(tmp_path / 'out.safetensors')!r}]) == 0;"
        "assert not {'torch', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
