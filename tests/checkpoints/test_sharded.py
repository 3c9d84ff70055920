"""Sharded checkpoints: every tensor from its shard, and nothing from outside the folder."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.checkpoints import content_digest, open_checkpoint, write_checkpoint
from swa_tools.checkpoints.sharded import build_index, parse_size, split_into_shards
from swa_tools.errors import CheckpointError

ARRAYS = {name: np.full(3, value, np.float32) for value, name in enumerate("abcd")}


def index_of(folder, weight_map, name="model.safetensors.index.json"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.mark.parametrize(
    "shards", [["abcd"], ["ab", "cd"], ["a", "b", "c", "d"], ["dc", "ba"], ["ad", "bc"]]
)
def test_shards_are_one_checkpoint_however_they_are_cut(tmp_path, sharded, read_all, shards):
    index = sharded(tmp_path / "cut", [list(shard) for shard in shards], ARRAYS)
    found = read_all(index)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
    write_checkpoint(tmp_path / "whole.safetensors", ARRAYS, None)
    assert content_digest(index) == content_digest(tmp_path / "whole.safetensors")


def test_prefixes_and_ties_are_those_of_all_shards(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    write_checkpoint(folder / "1.safetensors", {"module.a": np.ones(1)}, None)
    ties = {"module.head": "module.a"}
    write_checkpoint(folder / "2.safetensors", {"module.b": np.ones(1)}, None, ties=ties)
    weight_map = {"module.a": "1.safetensors", "module.b": "2.safetensors"}
    with open_checkpoint(index_of(folder, weight_map)) as checkpoint:
        assert sorted(checkpoint.tensors) == ["a", "b"]
        assert checkpoint.ties == {"head": "a"}
        assert {path.name for path in checkpoint.files} == {"1.safetensors", "2.safetensors"}


def test_shards_in_a_folder_below_are_read(tmp_path, read_all):
    (tmp_path / "m/parts").mkdir(parents=True)
    write_checkpoint(tmp_path / "m/parts/1.safetensors", {"a": np.ones(1)}, None)
    assert list(read_all(index_of(tmp_path / "m", {"a": "parts/1.safetensors"}))) == ["a"]


@pytest.mark.parametrize("how", ["links", "linked folder", "index alone"])
def test_links_within_one_folder_are_followed(tmp_path, sharded, read_all, how):
    """Hugging Face's cache: snapshots/REVISION/NAME are links to ../../blobs/HASH."""
    index = sharded(tmp_path / "blobs", [["a", "b"], ["c", "d"]], ARRAYS)
    snapshot = tmp_path / "snapshots" / "abc123"
    if how == "links":
        snapshot.mkdir(parents=True)
        for number, path in enumerate(sorted(index.parent.iterdir())):
            blob = path.rename(path.with_name(f"{number:064d}"))
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    elif how == "linked folder":
        snapshot.parent.mkdir()
        snapshot.symlink_to(index.parent)
    else:
        snapshot.mkdir(parents=True)
        for path in sorted(index.parent.glob("*.safetensors")):
            path.rename(snapshot / path.name)
        (snapshot / index.name).symlink_to(index)
    assert read_all(snapshot / index.name).keys() == ARRAYS.keys()
    assert read_all(snapshot).keys() == ARRAYS.keys()


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors",
        "parts/../../outside.safetensors",
        "parts/../inside.safetensors",
        "{outside}",
        "link.safetensors",
        "linked/outside.safetensors",
        "..",
        "/",
    ],
)
def test_an_index_that_points_outside_its_folder_is_refused(tmp_path, file):
    folder = tmp_path / "m"
    (folder / "parts").mkdir(parents=True)
    outside = tmp_path / "outside.safetensors"
    for path in (outside, folder / "inside.safetensors"):
        write_checkpoint(path, {"a": np.ones(1)}, None)
    (folder / "link.safetensors").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    index = index_of(folder, {"a": file.format(outside=outside)})
    with pytest.raises(CheckpointError, match="it names a file outside its folder, .*; refused"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    "file", ["gone.safetensors", "", ".", "parts", "loop", "a\0b", "\ud800", "x" * 300, "pipe"]
)
def test_an_index_that_names_no_file_is_an_error(tmp_path, file):
    (tmp_path / "parts").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(index_of(tmp_path, {"a": file}))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": ["1.safetensors"]}}',
        "{" * 100_000,
        "[" * 100_000,
        '{"weight_map": {"a": ' + "1" * 5000 + "}}",
        "\ud800",
    ],
    ids=range(12),
)
def test_a_broken_index_is_a_clear_error(tmp_path, text):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(CheckpointError, match="index.json: not a(n index| JSON)") as caught:
        open_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1


def test_an_index_that_is_too_large_is_not_read(tmp_path):
    path = index_of(tmp_path, {"a": "1.safetensors"})
    os.truncate(path, 10**10)
    with pytest.raises(CheckpointError, match="too large for an index"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("weight_map", "missing_from"),
    [
        ({"a": "1", "b": "1", "c": "1"}, "1"),
        ({"a": "1"}, "model.safetensors.index.json"),
        ({"a": "1", "b": "2"}, "model.safetensors.index.json"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path, weight_map, missing_from):
    index = index_of(tmp_path, weight_map)
    write_checkpoint(tmp_path / "1", {name: ARRAYS[name] for name in "ab"}, None)
    write_checkpoint(tmp_path / "2", {name: ARRAYS[name] for name in "b"}, None)
    n_open = len(os.listdir("/dev/fd"))
    with pytest.raises(CheckpointError, match=f"tensor '[bc]' is missing from {missing_from}$"):
        open_checkpoint(index)
    assert len(os.listdir("/dev/fd")) == n_open


def test_shards_of_torch_are_read_like_those_of_safetensors(tmp_path, read_all):
    pieces = [f"pytorch_model-0000{k}-of-00002.bin" for k in (1, 2)]
    for piece, names in zip(pieces, ("ab", "cd"), strict=True):
        torch.save({name: torch.from_numpy(ARRAYS[name]) for name in names}, tmp_path / piece)
    weight_map = {"a": pieces[0], "b": pieces[0], "c": pieces[1], "d": pieces[1]}
    index_of(tmp_path, weight_map, name="pytorch_model.bin.index.json")
    found = read_all(tmp_path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_shard_that_is_given_as_a_checkpoint_is_named_as_one(tmp_path):
    path = tmp_path / "model-00001-of-00002.safetensors"
    write_checkpoint(path, {"a": np.ones(1)}, None)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == (
            "one piece of a sharded checkpoint; its index stands for the whole",
        )
    with open_checkpoint(index_of(tmp_path, {"a": path.name})) as checkpoint:
        assert checkpoint.notes == ()


@pytest.mark.parametrize(
    "name",
    ["diffusion_pytorch_model.safetensors", "adapter_model.safetensors", "pytorch_model.bin"],
)
def test_the_folders_of_hugging_face_are_models(tmp_path, read_all, name):
    arrays = {"a": np.ones(3, np.float32)}
    write_checkpoint(tmp_path / name, arrays, None)
    np.testing.assert_array_equal(read_all(tmp_path)["a"], arrays["a"])


@given(
    sizes=st.dictionaries(st.text("abc.", min_size=1, max_size=4), st.integers(0, 40), min_size=1),
    limit=st.integers(1, 100),
)
def test_shards_are_those_of_huggingface_hub(sizes, limit):
    from huggingface_hub import split_state_dict_into_shards_factory

    layout = {name: ("U8", (n,)) for name, n in sizes.items()}
    theirs = split_state_dict_into_shards_factory(
        dict(sorted(sizes.items())),
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    shards = split_into_shards(layout, limit)
    assert shards == theirs.filename_to_tensors
    index = json.loads(build_index(shards, layout))
    assert index == {"metadata": theirs.metadata, "weight_map": theirs.tensor_to_filename}


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("5GB", 5 * 10**9),
        ("500 mb", 5 * 10**8),
        ("1.5TB", 15 * 10**11),
        ("2GiB", 2 * 2**30),
        ("7", 7),
        ("3k", 3000),
    ],
)
def test_sizes_are_read(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "0", "-5GB", "5XB", "GB", "5 G B", "1e9", "inf"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="expected a size such as 5GB"):
        parse_size(text)
