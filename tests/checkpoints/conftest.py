import json

import pytest

from swa_tools.checkpoints import write_checkpoint


@pytest.fixture
def raw_file(tmp_path):
    """Write a safetensors file byte by byte: any header, any data."""

    def write(header, data=b"", *, name="x.safetensors", length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        prefix = (len(text) if length is None else length).to_bytes(8, "little")
        path.write_bytes(prefix + text + data)
        return path

    return write


@pytest.fixture
def sharded():
    """Write arrays into shards with an index, as Hugging Face does; return the index."""

    def write(folder, shards, arrays):
        folder.mkdir(parents=True, exist_ok=True)
        weight_map = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            write_checkpoint(folder / file, {name: arrays[name] for name in names}, None)
            weight_map |= dict.fromkeys(names, file)
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return index

    return write
