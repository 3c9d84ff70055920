"""`finetune` against a bare loop with the same settings, on random images that are on the device.

The goal is at least 0.97 of the bare loop's images per second. Rounds of both take turns, so that
what else the machine does falls on both. On a GPU: `--model torchvision/resnet50 --image-size 224
--batch-size 256 --steps 100`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from swa_tools.distributed import Distributed, amp_dtype, single_process
from swa_tools.models import create_model
from swa_tools.training import FinetuneOptions, finetune
from swa_tools.training.progress import RunListener

WARM_UP = 10
"""Steps that do not count; a multiple of the options' `log_every`."""


def bare_loop(arguments: argparse.Namespace, context: Distributed) -> float:
    """Return the images per second of plain PyTorch."""
    device, amp = context.device, amp_dtype("auto", context.device)
    module = create_model(arguments.model, image_size=arguments.image_size).module
    module = module.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        module.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4, fused=True
    )
    size = (arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    images = torch.randn(size, device=device).to(memory_format=torch.channels_last)
    targets = torch.randint(1000, (arguments.batch_size,), device=device)
    start = 0.0
    for step in range(1, WARM_UP + arguments.steps + 1):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            loss = F.cross_entropy(module(images), targets)
        loss.backward()
        optimizer.step()
        if step == WARM_UP:
            loss.item()
            start = time.perf_counter()
    loss.item()
    return arguments.steps * arguments.batch_size / (time.perf_counter() - start)


def our_loop(arguments: argparse.Namespace, context: Distributed) -> float:
    """Return the images per second of `finetune`."""
    n_steps = WARM_UP + arguments.steps
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        options = FinetuneOptions(
            model=arguments.model,
            pretrained=False,
            image_size=arguments.image_size,
            synthetic_data=n_steps * arguments.batch_size,
            batch_size=arguments.batch_size,
            epochs=1,
            log_every=WARM_UP,
            resume_every="never",
            output=Path(folder) / "run",
        )

        def on_progress(progress):
            # At both the losses have just been read: the device has nothing left to do.
            if progress.step in (WARM_UP, n_steps):
                times[progress.step] = time.perf_counter()

        finetune(options, context=context, listener=RunListener(on_progress=on_progress))
    return arguments.steps * arguments.batch_size / (times[n_steps] - times[WARM_UP])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="timm/mobilenetv2_050")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    context = single_process()
    torch.backends.cudnn.benchmark = True
    bare, ours = [], []
    for _ in range(arguments.rounds):
        bare.append(bare_loop(arguments, context))
        ours.append(our_loop(arguments, context))
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    print(
        f"{arguments.model}, {arguments.image_size} pixels, batch {arguments.batch_size}, "
        f"{context.device}, median of {arguments.rounds} rounds"
    )
    print(f"bare loop  {statistics.median(bare):8,.0f} images/s")
    print(f"finetune   {statistics.median(ours):8,.0f} images/s, {ratio:.3f} of it")


if __name__ == "__main__":
    main()
