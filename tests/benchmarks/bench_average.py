"""The whole command `average` against the floor and against a running mean in torch.

The floor is reading all bytes once and writing one file (`cat FILES > /dev/null; cp FILE OUT`).
The running mean loads each file with safetensors.torch, as most scripts do, and writes no fsync;
so the command is timed with and without it, and the ratios are of the time without. Repeats are
interleaved and medians printed. In `--dir /dev/shm` the disk's noise stays out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

MODELS = {"resnet50": ("torchvision", 10), "vit_large_patch16_224": ("timm", 4)}
RUNNING_MEAN = """
import sys
from safetensors.torch import load_file, save_file

*paths, output = sys.argv[1:]
mean = load_file(paths[0])
for n, path in enumerate(paths[1:], start=2):
    for name, tensor in load_file(path).items():
        if tensor.is_floating_point():
            mean[name] += (tensor - mean[name]) / n
        else:
            mean[name] = tensor
save_file(mean, output)
"""
FLOOR, AVERAGE = "floor: cat and cp", "average"
WITHOUT, TORCH = "average, no fsync", "running mean in torch"
COMMAND = "from swa_tools.cli import main; main()"
WITHOUT_FSYNC = f"import os; os.fsync = lambda _: None; {COMMAND}"


def make_checkpoints(model, n, folder):
    """Write n random checkpoints of the model's shapes. Imports torch, so not in the parent."""
    import numpy as np
    import timm
    import torch
    import torchvision

    from swa_tools.checkpoints import write_checkpoint

    build = {"torchvision": torchvision.models.get_model, "timm": timm.create_model}
    with torch.device("meta"):
        shapes = build[MODELS[model][0]](model).state_dict()
    generator = np.random.default_rng(0)
    for number in range(n):
        arrays = {
            name: generator.standard_normal(tuple(tensor.shape), np.float32)
            if tensor.is_floating_point()
            else np.array(number)
            for name, tensor in shapes.items()
        }
        write_checkpoint(Path(folder) / f"{number}.safetensors", arrays, None)


class Figures(NamedTuple):
    """What one command took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(command):
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{command} failed: status {status}")
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Figures(seconds, usage.ru_utime + usage.ru_stime, peak_bytes)


def measure(folder, rounds):
    paths = sorted(map(str, folder.glob("*.safetensors")))
    output = str(folder / "out")
    average = ["average", *paths, "-o", output]
    commands = {
        FLOOR: ["sh", "-c", 'cat "$@" > /dev/null; cp "$1" "$0"', output, *paths],
        AVERAGE: [sys.executable, "-c", COMMAND, *average],
        WITHOUT: [sys.executable, "-c", WITHOUT_FSYNC, *average],
        TORCH: [sys.executable, "-c", RUNNING_MEAN, *paths, output],
    }
    found = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            figures = run(command)
            os.unlink(output)
            if number:  # the first round warms the page cache
                found[name].append(figures)
    return {
        name: Figures(*map(statistics.median, zip(*figures, strict=True)))
        for name, figures in found.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--n", type=int, help="checkpoints  [default: 10 of resnet50, else 4]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", help="where the files are made, such as /dev/shm")
    arguments = parser.parse_args()
    n = arguments.n or MODELS[arguments.model][1]
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        make = (
            f"from bench_average import *; make_checkpoints({arguments.model!r}, {n}, {folder!r})"
        )
        subprocess.run([sys.executable, "-c", make], check=True, cwd=Path(__file__).parent)
        n_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(f"{n} x {arguments.model}, {n_bytes / 1e9:.2f} GB in {Path(folder).parent}")
        found = measure(Path(folder), arguments.rounds)
    for name, figures in found.items():
        print(
            f"{name:22} {figures.seconds:7.3f} s, {figures.cpu_seconds:7.3f} s of CPU,"
            f" {figures.peak_bytes / 1e6:6.0f} MB"
        )
    without = found[WITHOUT].seconds
    print(f"fsync: {found[AVERAGE].seconds - without:.3f} s")
    print(f"without it: {without / found[FLOOR].seconds:.2f} times the floor,")
    print(f"{found[TORCH].seconds / without:.1f} times faster than the running mean")


if __name__ == "__main__":
    main()
