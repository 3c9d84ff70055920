import dataclasses

import numpy as np
import pytest

from swa_tools.checkpoints import write_checkpoint


@pytest.fixture
def write(tmp_path):
    """Write arrays by name as a checkpoint; return its path."""

    def call(name, tensors):
        path = tmp_path / f"{name}.safetensors"
        write_checkpoint(
            path, {key: np.asarray(value) for key, value in tensors.items()}, None, force=True
        )
        return path

    return call


@pytest.fixture(scope="session")
def captures(tmp_path_factory, tiny_model):
    """Four checkpoints of a small network with BatchNorm around common weights."""
    import torch

    from swa_tools import __version__
    from swa_tools.checkpoints import BnInfo, CheckpointMetadata
    from swa_tools.models import create_model, save_state_dict

    folder = tmp_path_factory.mktemp("captures")
    torch.manual_seed(0)
    built = create_model(tiny_model, num_classes=3, image_size=32)
    metadata = CheckpointMetadata(
        kind="checkpoint",
        model=dataclasses.replace(built.info, classes=("blue", "green", "red")),
        preprocessing=built.preprocessing,
        bn=BnInfo(state="trained"),
        swa_tools=__version__,
    )
    paths = []
    for number in range(4):
        noise = torch.Generator().manual_seed(number)
        state_dict = {
            name: tensor + 0.05 * torch.rand(tensor.shape, generator=noise)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in built.module.state_dict().items()
        }
        paths.append(folder / f"cycle-{number + 1:03d}.safetensors")
        save_state_dict(paths[-1], state_dict, metadata)
    return paths


@pytest.fixture
def survey(image_folder, tmp_path):
    """Return a function that makes a small survey; keywords go to its options or to itself."""

    def make(*, output="numbers.npz", force=False, listener=None, **options):
        from swa_tools.data import open_images
        from swa_tools.distributed import single_process
        from swa_tools.landscape.surface import SurfaceOptions
        from swa_tools.landscape.survey import Listener, Survey

        chosen = {"bn_samples": 9, "train_samples": 6, "val_samples": 12, "workers": 0}
        return Survey(
            output=tmp_path / output,
            train=open_images(image_folder / "train"),
            val=open_images(image_folder / "val"),
            options=SurfaceOptions(**{**chosen, "batch_size": 4, **options}),
            context=single_process("cpu"),
            listener=listener or Listener(),
            force=force,
        )

    return make
