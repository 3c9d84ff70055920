"""What a file is that cannot be read, and the way on."""

from collections.abc import Collection
from pathlib import Path

BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; run `git lfs pull`",
    b"<!DOCTYPE": "a web page, not weights; did its download fail?",
    b"<!doctype": "a web page, not weights; did its download fail?",
    b"<html": "a web page, not weights; did its download fail?",
    b"\x1f\x8b": "compressed by gzip; unpack it with gunzip",
    b"BZh": "compressed by bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "compressed by xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard; unpack it with unzstd",
    b"\x89HDF": "an HDF5 file (Keras); save its weights as safetensors",
    b"\x93NUMPY": "one array of NumPy's; save the weights as safetensors",
    b"GGUF": "a GGUF file, whose weights are quantized; take the original weights",
}
"""By the first bytes of a file."""

ENDINGS = {
    ".msgpack": "a file of msgpack (Flax); save its weights as safetensors",
    ".onnx": "an ONNX graph; take the weights that it was exported from",
    ".distcp": "a piece of a torch.distributed.checkpoint; give its folder",
    ".tflite": "a TensorFlow Lite model; take the weights that it was made from",
}
"""By the end of a file's name."""


def name_of_format(path: Path, start: bytes) -> str | None:
    """Say what a file is that is neither safetensors nor torch's; None if that is not known.

    Args:
        path: The file.
        start: Its first bytes.
    """
    if not start:
        return "it is empty; is somebody still writing it?"
    for beginning, description in BEGINNINGS.items():
        if start.startswith(beginning):
            return description
    if start[257:262] == b"ustar":
        return "a tar archive (.nemo files are such); unpack it and give the weights in it"
    return ENDINGS.get(path.suffix.lower())


def name_of_zip(records: Collection[str]) -> str | None:
    """Say what a zip archive is that `torch.save` did not write; None if it may have.

    Args:
        records: The names in it.
    """
    inner = {name.partition("/")[2] for name in records}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return (
            "a TorchScript archive, which holds a program; in torch, save"
            " torch.jit.load(FILE).state_dict()"
        )
    if "archive_format" in inner or "archive_format" in records:
        return (
            "an archive of torch.export (.pt2), which holds a program; in torch, save"
            " torch.export.load(FILE).state_dict"
        )
    if records and all(name.endswith(".npy") for name in records):
        return "arrays of NumPy's (.npz); save the weights as safetensors"
    if "model.weights.h5" in records:
        return "a model of Keras; save its weights as safetensors"
    return None
