import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swa_tools import __version__
from swa_tools.averaging import AverageOptions, TensorRules, average_checkpoints
from swa_tools.averaging.folder import deal
from swa_tools.checkpoints import (
    BnInfo,
    CheckpointMetadata,
    ModelInfo,
    Preprocessing,
    content_digest,
    read_metadata,
    write_checkpoint,
)
from swa_tools.errors import CheckpointError, OutputError


@pytest.fixture(scope="module")
def timm_states():
    import timm
    import torch

    torch.manual_seed(0)
    models = [timm.create_model("test_resnet", num_classes=7) for _ in range(2)]
    return [{k: v.numpy() for k, v in model.state_dict().items()} for model in models]


METADATA = CheckpointMetadata(
    kind="checkpoint",
    model=ModelInfo(name="timm/test_resnet.r160_in1k", num_classes=7),
    preprocessing=Preprocessing(
        image_size=96,
        resize=110,
        crop="center",
        interpolation="bilinear",
        mean=(0.4, 0.5, 0.6),
        std=(0.1, 0.2, 0.3),
    ),
    bn=BnInfo(state="trained"),
    swa_tools=__version__,
)


def test_timm_loads_the_folder_with_its_preprocessing(checkpoints, timm_states, tmp_path):
    import timm
    import torch

    paths = checkpoints(*timm_states, metadata=METADATA)
    average_checkpoints(paths, f"{tmp_path}/model/")
    model = timm.create_model(f"local-dir:{tmp_path}/model", pretrained=True)
    name = "conv1.0.weight"
    expected = np.mean([state[name].astype(np.float64) for state in timm_states], axis=0)
    assert torch.equal(model.state_dict()[name], torch.from_numpy(expected).float())
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["input_size"]) == (3, 96, 96)
    assert int(96 / config["crop_pct"]) == 110
    assert config["interpolation"] == "bilinear"
    assert tuple(config["mean"]) == (0.4, 0.5, 0.6)


def test_the_config_of_a_source_folder_is_kept(tmp_path, states, read_all):
    from safetensors.numpy import save_file

    for number, arrays in enumerate(states(2)):
        folder = tmp_path / f"source-{number}"
        folder.mkdir()
        (folder / "config.json").write_text('{"architecture": "theirs"}')
        save_file(arrays, folder / "model.safetensors")
    average_checkpoints([tmp_path / "source-0", tmp_path / "source-1"], f"{tmp_path}/average/")
    config = json.loads((tmp_path / "average" / "config.json").read_text())
    assert config == {"architecture": "theirs"}
    assert read_all(tmp_path / "average").keys() == states(1)[0].keys()


def test_what_is_no_model_folder_is_refused_and_leaves_nothing(checkpoints, states, tmp_path):
    with pytest.raises(CheckpointError, match="cannot write a model folder"):
        average_checkpoints(checkpoints(*states(2)), f"{tmp_path}/model/")
    assert not (tmp_path / "model").exists()


def test_a_failure_removes_the_folder_and_force_is_needed_to_replace_it(
    checkpoints, timm_states, tmp_path
):
    broken = {**timm_states[1], "fc.bias": np.full(7, np.nan, np.float32)}
    paths = checkpoints(timm_states[0], broken, metadata=METADATA)
    with pytest.raises(CheckpointError, match="NaN"):
        average_checkpoints(paths, f"{tmp_path}/model/")
    assert not (tmp_path / "model").exists()
    average_checkpoints(paths[:1], f"{tmp_path}/model/")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="exists"):
        average_checkpoints(paths[:1], f"{tmp_path}/model/")
    with pytest.raises(CheckpointError, match="NaN"):
        average_checkpoints(paths, f"{tmp_path}/model/", options=AverageOptions(force=True))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


ARRAYS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["<f4", "<f2", "<f8", "<i4"]), st.integers(0, 30)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30)
@given(arrays=ARRAYS, limit=st.integers(1, 300))
def test_shards_are_a_partition_of_the_one_file(tmp_path_factory, arrays, limit):
    from safetensors import safe_open

    folder = tmp_path_factory.mktemp("partition")
    generator = np.random.default_rng(0)
    paths = [folder / f"{k}.safetensors" for k in range(2)]
    for path in paths:
        numbers = {
            name: np.arange(n, dtype=dtype) * (1 if dtype == "<i4" else generator.normal())
            for name, (dtype, n) in arrays.items()
        }
        write_checkpoint(path, {k: v.astype(arrays[k][0]) for k, v in numbers.items()}, None)
    whole = average_checkpoints(paths, folder / "whole.safetensors")
    options = AverageOptions(max_shard_size=limit)
    result = average_checkpoints(paths, f"{folder}/out/", options=options)
    assert result.digest == whole.digest == content_digest(result.path)
    assert result.metadata == whole.metadata == read_metadata(folder / "out")

    # As the libraries of Hugging Face read it.
    shards = sorted(folder.glob("out/*.safetensors"))
    weight_map = dict.fromkeys(arrays, "model.safetensors")
    if len(shards) > 1:
        weight_map = json.loads(result.path.read_text())["weight_map"]
    assert set(weight_map.values()) == {shard.name for shard in shards}
    found = {}
    for shard in shards:
        with safe_open(shard, "numpy") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
        assert held.keys() == {name for name in arrays if weight_map[name] == shard.name}
        assert len(held) == 1 or sum(array.nbytes for array in held.values()) <= limit
        found |= held
    with safe_open(folder / "whole.safetensors", "numpy") as file:
        assert found.keys() == set(file.keys())
        assert all(file.get_tensor(k).tobytes() == v.tobytes() for k, v in found.items())
    shutil.rmtree(folder)


def test_shards_keep_ties_and_the_digests_of_whole_sources(tmp_path, states, read_all):
    from swa_tools.checkpoints import open_checkpoint

    paths = []
    for number, arrays in enumerate(states(2)):
        paths.append(tmp_path / f"{number}.safetensors")
        write_checkpoint(paths[-1], arrays, None, ties={"head.weight": "fc.weight"})
    options = AverageOptions(max_shard_size=1000, rules=TensorRules(exclude=("conv.*",)))
    result = average_checkpoints(paths, f"{tmp_path}/out/", options=options)
    found = [source.digest for source in result.metadata.average.sources]
    assert found == [content_digest(path) for path in paths]
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.ties == {"head.weight": "fc.weight"}
        assert "conv.weight" not in checkpoint.tensors


def test_shards_replace_a_model_by_force_alone_and_never_a_source(checkpoints, states, tmp_path):
    paths, output = checkpoints(*states(3)), f"{tmp_path}/out/"
    average_checkpoints(paths[:2], output, options=AverageOptions(max_shard_size=1000))
    before = content_digest(output)
    with pytest.raises(OutputError, match="exists already"):
        average_checkpoints(paths, output, options=AverageOptions(max_shard_size=10**6))
    options = AverageOptions(max_shard_size=10**6, force=True)
    with pytest.raises(OutputError, match="one of the checkpoints to average"):
        average_checkpoints([output, paths[0]], output, options=options)
    assert content_digest(output) == before
    result = average_checkpoints(paths, output, options=options)
    assert result.path == tmp_path / "out" / "model.safetensors"
    assert os.listdir(output) == ["model.safetensors"]
    assert content_digest(output) == result.digest != before


def test_shards_go_into_a_folder(checkpoints, states, tmp_path):
    options = AverageOptions(max_shard_size=1000)
    with pytest.raises(OutputError, match="end its name in /"):
        average_checkpoints(checkpoints(*states(2)), tmp_path / "out", options=options)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_no_shards(checkpoints, states, tmp_path, nursery, earlier):
    paths, output = checkpoints(*states(3)), tmp_path / "out"
    options = ["--max-shard-size", "1000", "--force", "-o", f"{output}/"]
    if earlier:
        assert nursery.run("average", *paths[:2], *options)[0] == 0
        before = content_digest(output)
    limited = nursery.run("average", *paths, *options, largest_file=100_000)
    assert limited == (1, f"Error: {output}: cannot write it: File too large\n")
    assert sorted(os.listdir(tmp_path)) == (["in", "out"] if earlier else ["in"])
    assert not earlier or content_digest(output) == before


@given(sizes=st.lists(st.integers(0, 100), min_size=1), n_ranks=st.integers(1, 5))
def test_shards_are_dealt_to_ranks_by_bytes(sizes, n_ranks):
    layout = {str(i): ("U8", (size,)) for i, size in enumerate(sizes)}
    shards = {f"shard {name}": [name] for name in layout}
    dealt = deal(shards, layout, n_ranks)
    assert sorted(file for files in dealt for file in files) == sorted(shards)
    totals = [sum(sizes[int(file.split()[1])] for file in files) for files in dealt]
    assert max(totals) <= min(totals) + max(sizes)
