import dataclasses
import json
import shutil

import pytest


@pytest.fixture(scope="session")
def _built_run(tmp_path_factory, tiny_model):
    import torch

    from swa_tools import __version__
    from swa_tools.averaging import average_checkpoints
    from swa_tools.checkpoints import BnInfo, CheckpointMetadata
    from swa_tools.models import create_model, save_state_dict

    folder = tmp_path_factory.mktemp("built") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    options = {"weight_decay": 0.01, "optimizer": "sgd", "seed": 0}
    (folder / "run.json").write_text(json.dumps({"options": options}))
    torch.manual_seed(0)
    built = create_model(tiny_model, num_classes=3, image_size=32)
    metadata = CheckpointMetadata(
        kind="checkpoint",
        model=dataclasses.replace(built.info, classes=("blue", "green", "red")),
        preprocessing=built.preprocessing,
        bn=BnInfo(state="trained"),
        swa_tools=__version__,
    )
    state_dict = built.module.state_dict()
    save_state_dict(folder / "start.safetensors", state_dict, metadata)
    captures = []
    for cycle in (1, 2, 3):
        noise = torch.Generator().manual_seed(cycle)
        moved = {
            name: tensor + 0.05 * torch.rand(tensor.shape, generator=noise)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in state_dict.items()
        }
        captures.append(folder / "checkpoints" / f"cycle-{cycle:03d}.safetensors")
        save_state_dict(captures[-1], moved, metadata)
    average_checkpoints(captures, folder / "average.safetensors")
    return folder


@pytest.fixture
def small_run(_built_run, tmp_path_factory):
    """A run of a tiny network: start, three captures around it, and their average."""
    return shutil.copytree(_built_run, tmp_path_factory.mktemp("small") / "run")
