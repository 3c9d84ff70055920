import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.data.random_numbers import AUGMENT, SHUFFLE, generator, permutation


@given(n=st.integers(1, 500), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 1000))
def test_permutation_has_every_number_once(n, seed, epoch):
    assert sorted(permutation(n, seed, epoch=epoch)) == list(range(n))


def test_streams_of_different_uses_epochs_images_and_seeds_differ():
    first = {
        generator(seed, use, epoch=epoch, index=index).random()
        for seed in (0, 1)
        for use in (SHUFFLE, AUGMENT)
        for epoch in (0, 1)
        for index in (0, 1)
    }
    assert len(first) == 16


def test_streams_of_neighbouring_images_do_not_overlap():
    draws = [generator(0, AUGMENT, index=index).random(1000) for index in range(20)]
    assert len(np.unique(np.concatenate(draws))) == 20_000
