"""What the recompute of BatchNorm costs over the bare forward passes: the goal is at most 1.1."""

import copy
import time

import timm
import torch

from swa_tools.batchnorm import update_bn

ROUNDS = 7


def bare_pass(model, batches):
    """Run the same forwards, BatchNorm in train mode, without hooks."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.training = True
    with torch.no_grad():
        for batch in batches:
            model(batch)


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = [("mobilenetv2_050", 64, 96, 8), ("resnet18", 32, 128, 6)]
    if device.type == "cuda":
        cases = [("resnet50", 256, 224, 20)]
    for name, batch_size, size, n_batches in cases:
        model = timm.create_model(name).to(device, memory_format=torch.channels_last).eval()
        bare = copy.deepcopy(model)
        batches = [torch.randn(batch_size, 3, size, size, device=device)] * n_batches
        # In turns, and the best of several: other work on the machine disturbs both alike.
        pairs = [
            (seconds(bare_pass, bare, batches), seconds(update_bn, model, batches))
            for _ in range(ROUNDS)
        ]
        forward, recompute = (min(times) for times in zip(*pairs, strict=True))
        print(
            f"{name} on {device}: bare forwards {forward:.3f} s, update_bn {recompute:.3f} s,"
            f" {recompute / forward:.3f} times"
        )


if __name__ == "__main__":
    main()
