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
def captures(_captures):
    """Three checkpoints of a small network with BatchNorm."""
    return sorted((_captures / "checkpoints").iterdir())


@pytest.fixture(scope="session")
def center(_captures):
    """The weights that the captures lie around."""
    return _captures / "average.safetensors"


@pytest.fixture
def survey(image_folder, tmp_path):
    """Return a function that makes a small survey; keywords go to its options or to itself."""

    def make(*, output="numbers.npz", force=False, listener=None, **options):
        from swa_tools.data import open_images
        from swa_tools.distributed import single_process
        from swa_tools.landscape.options import SurfaceOptions
        from swa_tools.landscape.survey import Survey
        from swa_tools.listening import Listener

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
