import json

import numpy as np
import pytest

from swa_tools import __version__
from swa_tools.averaging import AverageOptions, average_checkpoints
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, ModelInfo, Preprocessing
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
