"""Random numbers that depend on what they are for, not on who draws them or when.

Every use has a generator of its own, found by (seed, use, epoch, index): the same images come out
of any number of workers and ranks, after any resume, and torch's, NumPy's and Python's global
generators are left alone.
"""

import numpy as np

SHUFFLE, AUGMENT, SUBSET = range(3)
"""Uses."""


def generator(seed: int, use: int, *, epoch: int = 0, index: int = 0) -> np.random.Generator:
    """Return the generator of one use.

    Philox is a function of (key, counter), so that any point of the stream is reached at once. Of
    the counter's four words the lowest counts the draws.

    Args:
        seed: Of the run; any integer, taken modulo 2^64.
        use: `SHUFFLE`, `AUGMENT` or `SUBSET`.
        epoch: From 0.
        index: Of the image.
    """
    key = np.array([seed % 2**64, use], dtype=np.uint64)
    counter = np.array([0, 0, index, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def permutation(n: int, seed: int, *, epoch: int = 0) -> np.ndarray:
    """Return 0 … n−1 in random order, int64.

    Sorting plain uniform numbers keeps to the one part of NumPy's streams that never changes.
    """
    return np.argsort(generator(seed, SHUFFLE, epoch=epoch).random(n), kind="stable")
