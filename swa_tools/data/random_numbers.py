"""Random numbers that depend on what they are for, not on who draws them or when.

Every use has its own generator, found by (seed, use, epoch, index). So any number of workers and
ranks gives the same images, also after a resume, and the global generators of torch, NumPy and
Python are left alone.
"""

import numpy as np

SHUFFLE, AUGMENT, SUBSET = range(3)
"""The uses of random numbers."""


def generator(seed: int, use: int, *, epoch: int = 0, index: int = 0) -> np.random.Generator:
    """Return the generator of one use.

    Philox is a function of (key, counter), so that any point of the stream is reached at once. The
    lowest of the counter's four words counts the draws.

    Args:
        seed: The run's seed; any integer, taken modulo 2^64.
        use: `SHUFFLE`, `AUGMENT` or `SUBSET`.
        epoch: From 0.
        index: Position of the image in its set.
    """
    key = np.array([seed % 2**64, use], dtype=np.uint64)
    counter = np.array([0, 0, index, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def permutation(n: int, seed: int, *, epoch: int = 0) -> np.ndarray:
    """Return 0 … n−1 in random order, int64.

    Sorts uniform numbers: the one part of NumPy's streams that never changes between versions.
    """
    return np.argsort(generator(seed, SHUFFLE, epoch=epoch).random(n), kind="stable")
