"""Damage checkpoints at random and read them; run by test_mutations.py in a process of its own.

Usage: mutate.py safetensors|pickle SEED N FOLDER

Every damaged file must end in success or in one of our errors of one line; anything else is
printed with its seed and ends the process with status 1. Memory is limited. What is read of a
safetensors file that passes must be what the safetensors library reads.
"""

import argparse
import io
import json
import random
import resource
import sys
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from swa_tools.averaging import Uniform, iterate_average, plan_average
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, open_checkpoint, write_checkpoint
from swa_tools.errors import SwaToolsError

EXTRA_BYTES = 512_000_000
NUMBERS = [0, 1, -1, 2, 3, 7, 8, 255, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64]
VALUES = [
    *NUMBERS,
    10**400,
    None,
    True,
    1.5,
    "",
    "F32",
    "F64",
    "BF16",
    "F4",
    "\ud800",
    [],
    [0],
    [[]],
    [0, 0],
    {},
    {"a": 1},
]
ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv.bias": np.ones(2, ml_dtypes.bfloat16),
    "n": np.array(7),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float16),
    "codes": np.arange(6).astype(ml_dtypes.float8_e5m2),
}


def damage_bytes(rng, data):
    """Change, remove, insert or repeat a few bytes."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        n = rng.choice([1, 1, 2, 4, 8, 64])
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1])
        elif kind == 2:
            del data[at : at + n]
        elif kind == 3:
            data[at:at] = rng.randbytes(n)
        elif kind == 4:
            data[at:at] = data[at : at + n]
        elif kind == 5:
            del data[at:]
        else:
            number = rng.choice(NUMBERS) % 2**64
            data[at : at + 8] = number.to_bytes(8, rng.choice(["little", "big"]))
    return bytes(data)


def damage_json(rng, document):
    """Replace, remove or add a value anywhere in a JSON document."""
    places, stack = [], [document]
    while stack:
        inner = stack.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        for key in keys:
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                stack.append(inner[key])
    for _ in range(rng.choice([1, 1, 2, 5])):
        inner, key = rng.choice(places)
        kind = rng.randrange(5)
        if isinstance(inner, dict) and kind == 0:
            inner.pop(key, None)
        elif isinstance(inner, dict) and kind == 1:
            inner[rng.choice(["w", "__metadata__", "dtype", "a" * 300, ""])] = rng.choice(VALUES)
        elif isinstance(inner, list) and kind == 2:
            inner.append(rng.choice(VALUES))
        elif isinstance(inner, dict) or key < len(inner):
            number = inner.get(key) if isinstance(inner, dict) else inner[key]
            near = type(number) is int and rng.random() < 0.5
            inner[key] = number + rng.choice([-8, -4, -1, 1, 4, 8]) if near else rng.choice(VALUES)
    return document


def damage_safetensors(rng, content):
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        return damage_bytes(rng, content)
    if kind == 1:
        header = damage_bytes(rng, header)
    else:
        text = json.dumps(damage_json(rng, json.loads(header)))
        if rng.random() < 0.1:  # duplicate keys, deep nesting
            depth = rng.choice([10, 500, 100_000])
            text = text.replace(": ", rng.choice([": [", ': {"a": ' * depth]), 1)
            text += rng.choice(["", "]", "}" * depth])
        header = text.encode(errors="surrogatepass")
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data) + 1)] + rng.randbytes(rng.choice([0, 0, 1, 8]))
    claimed = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**64
    return claimed.to_bytes(8, "little") + header + data


def damage_pickle(rng, content):
    """Damage the file, or the pickle inside of a zip file that stays whole."""
    if not content.startswith(b"PK") or rng.random() < 0.4:
        return damage_bytes(rng, content)
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, damage_bytes(rng, data) if name.endswith(".pkl") else data)
    return result.getvalue()


def read(path, sound):
    """Do all that can be done with a checkpoint."""
    with open_checkpoint(path) as checkpoint, open_checkpoint(sound) as other:
        found = {name: bytes(checkpoint.read_bytes(name)) for name in checkpoint.tensors}
        checkpoint.digest()
        if path.suffix == ".safetensors" and not checkpoint.notes:
            compare_with_library(path, checkpoint, found)
        if path.suffix == ".pth":
            compare_with_torch(path, found)
        for _ in iterate_average(plan_average([checkpoint, other], Uniform())):
            pass


def compare_with_torch(path, found):
    """Where torch reads a damaged file too, both must have found the same numbers."""
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        state = loaded.get("state_dict", loaded)
        theirs = {name: tensor for name, tensor in state.items() if torch.is_tensor(tensor)}
        data = {name: t.contiguous().numpy().tobytes() for name, t in theirs.items()}
    except Exception:  # it refuses more than we do, or what it found is no state dict
        return
    assert data == {name: found[name] for name in data}


def compare_with_library(path, checkpoint, found):
    try:
        theirs = safetensors.safe_open(path, "numpy")
    except safetensors.SafetensorError:
        if has_other_fields(path):  # of which it reads more than it has to
            return
        raise
    with theirs:
        assert set(theirs.keys()) == set(found)
        for name, info in checkpoint.tensors.items():
            part = theirs.get_slice(name)
            assert part.get_dtype() == info.dtype
            assert tuple(part.get_shape()) == info.shape
            if info.dtype in ("F64", "F32", "F16", "I64", "U8") and info.shape:
                assert theirs.get_tensor(name).tobytes() == found[name]


def has_other_fields(path):
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__", None)
    return any(entry.keys() > {"dtype", "shape", "data_offsets"} for entry in header.values())


def safetensors_samples(folder):
    metadata = CheckpointMetadata(kind="checkpoint", bn=BnInfo(state="none"), swa_tools="0.1.0")
    write_checkpoint(folder / "a.safetensors", ARRAYS, metadata, ties={"head": "conv.weight"})
    write_checkpoint(folder / "b.safetensors", {"w": np.ones((2, 3))}, None)
    prefixed = {f"module.{name}": array for name, array in ARRAYS.items()}
    write_checkpoint(folder / "c.safetensors", prefixed, None)
    return [folder / f"{name}.safetensors" for name in "abc"]


def pickle_samples(folder):
    import torch

    state = {"w": torch.arange(24.0).reshape(2, 3, 4), "n": torch.tensor(7), "b": torch.ones(2)}
    args = argparse.Namespace(lr=0.1, model="resnet50")
    contents = [state, {"state_dict": state, "args": args, "epoch": 3, "optimizer": {"state": {}}}]
    paths = []
    for number, content in enumerate(contents):
        for is_zip in (True, False):
            paths.append(folder / f"{number}-{is_zip}.pth")
            torch.save(content, paths[-1], _use_new_zipfile_serialization=is_zip)
    return paths


def main(kind, seed, n, folder):
    folder = Path(folder)
    make, damage = {
        "safetensors": (safetensors_samples, damage_safetensors),
        "pickle": (pickle_samples, damage_pickle),
    }[kind]
    samples = [(path, path.read_bytes()) for path in make(folder)]
    for path, _ in samples:
        read(path, path)  # everything is imported before memory is limited
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES,) * 2)
    n_passed = 0
    for number in range(int(seed), int(seed) + int(n)):
        rng = random.Random(number)
        sound, content = rng.choice(samples)
        path = folder / f"damaged{sound.suffix}"
        path.unlink(missing_ok=True)  # ext4 syncs a file that is emptied and written again
        path.write_bytes(damage(rng, content))
        sys.stderr.write(f"\r{number}")
        try:
            read(path, sound)
            n_passed += 1
        except SwaToolsError as error:
            message = str(error)
            if len(message.splitlines()) != 1 or len(message) > 2000:
                sys.exit(f"\rseed {number}: {len(message)} characters: {message[:1000]!r}")
        except BaseException as error:
            sys.exit(f"\rseed {number}: {type(error).__name__}: {error}")
    sys.stdout.write(str(n_passed))


if __name__ == "__main__":
    main(*sys.argv[1:])
