"""Mean and variance of a batch of activations, exact to the last digits of their own dtype.

On a CPU, torch's BatchNorm adds up channels-last activations one after another in float32. On large
batches its variance is off by up to half a percent (measured: 0.05 % for 128 images with 48 × 48
activations, 0.5 % for 256 with 56 × 56). Here each image is summed separately, which torch does
pairwise, and the images are merged in float64.
"""

import torch

from swa_tools.distributed import float64_device

IN_CACHE = 2**18
"""How many numbers to work on at a time: few enough that a second pass finds them in a cache."""


def batch_moments(activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the biased variance of each channel.

    Args:
        activations: (N, C, …), floating point; half precision is computed in float32.

    Returns:
        Both (C,), float64; on the CPU where the device has no float64.
    """
    if activations.dtype in (torch.float16, torch.bfloat16):
        activations = activations.float()
    device = float64_device(activations.device)
    if activations.is_cuda:  # Its own reduction is accurate, and one pass.
        dims = (0, *range(2, activations.ndim))
        variance, mean = torch.var_mean(activations, dim=dims, correction=0)
        return mean.to(device).double(), variance.to(device).double()
    inner = tuple(range(2, activations.ndim))
    if not inner:
        values = activations.to(device).double()
        return values.mean(0), values.var(0, correction=0)
    n_images = max(1, IN_CACHE // max(1, activations[0].numel()))
    parts = [_of_images(part, inner) for part in torch.split(activations, n_images)]
    means, variances = (
        torch.cat(values).to(device).double() for values in zip(*parts, strict=True)
    )
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _of_images(
    activations: torch.Tensor, inner: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance of each channel of each image, (N, C)."""
    means = activations.mean(inner, keepdim=True)
    return means.flatten(1), (activations - means).square_().mean(inner)
