"""A model folder, as Hugging Face and timm read it: `model.safetensors` and `config.json`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from swa_tools.checkpoints import Checkpoint, CheckpointMetadata, atomic_output
from swa_tools.checkpoints.remote import RemotePath
from swa_tools.errors import CheckpointError, OutputError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def model_config(source: Checkpoint, metadata: CheckpointMetadata) -> bytes:
    """Return the `config.json` for an average.

    It is that of the source where the source is such a folder itself; for a model of timm's it is
    made from the metadata.

    Raises:
        CheckpointError: The source is neither.
    """
    config = source.files[0].parent / CONFIG_FILE
    if source.path.is_dir() and config.is_file():
        return config.read_bytes()
    model, preprocessing = metadata.model, metadata.preprocessing
    if model is None or preprocessing is None or not model.name.startswith("timm/"):
        raise CheckpointError(
            f"{source.path}: cannot write a model folder: it neither has a {CONFIG_FILE} beside"
            " it nor says that it is a model of timm's; write a .safetensors file instead"
        )
    size = preprocessing.image_size
    pretrained = {
        "input_size": [3, size, size],
        "interpolation": preprocessing.interpolation,
        "crop_pct": size / preprocessing.resize,
        "crop_mode": preprocessing.crop,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "num_classes": model.num_classes,
    }
    document = {
        "architecture": model.name.removeprefix("timm/").partition(".")[0],
        "num_classes": model.num_classes,
        "model_args": model.kwargs,
        "pretrained_cfg": pretrained,
    }
    if model.classes is not None:
        document["label_names"] = list(model.classes)
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


@contextlib.contextmanager
def model_folder(folder: Path, config: bytes, *, force: bool = False) -> Iterator[Path]:
    """Make a folder with its `config.json`, and give the path of the weights to write there.

    A folder that was made here is removed again if the block fails; without its weights it is not
    a model, so what can be loaded is always whole.

    Raises:
        OutputError: The folder cannot be made, or a file in it exists and `force` is not set.
    """
    is_remote = isinstance(folder, RemotePath)  # servers need no folders
    is_new = not is_remote and not folder.exists()
    try:
        if not is_remote:
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
    try:
        with atomic_output(folder / CONFIG_FILE, force=force) as file:
            yield folder / WEIGHTS_FILE
            file.write(config)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                (folder / WEIGHTS_FILE).unlink(missing_ok=True)
                folder.rmdir()
        raise
