"""Names: wrappers' prefixes and the natural order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_tools.checkpoints.names import in_order, natural_key, plain_names

NAMES = ["conv.weight", "conv.bias", "module_list.0.weight"]
PREFIXES = ["module.", "_orig_mod.", "model."]
ORDERS = [
    "".join(order) for n in range(4) for order in itertools.permutations(PREFIXES, n) if n
] + ["module.module.", "model.model._orig_mod."]


@pytest.mark.parametrize("prefix", ORDERS)
def test_prefixes_are_removed_in_any_order_where_every_name_has_them(prefix):
    names, removed, notes = plain_names([prefix + name for name in NAMES], prefix="model.")
    assert names == {name: prefix + name for name in NAMES}
    assert list(names) == NAMES
    assert removed == prefix
    assert notes == (f"the prefix '{prefix}' is removed from every name",)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_one_name_lacks_stays(prefix):
    stored = [prefix + "a", prefix + "b", "c"]
    assert plain_names(stored, prefix="model.") == ({name: name for name in stored}, "", ())


def test_names_that_are_to_be_kept_are():
    stored = ["module.a", "module.b"]
    kept = plain_names(stored, prefix="model.", keep_names=True)
    assert kept == ({name: name for name in stored}, "", ())


def test_the_prefix_model_stays_outside_of_lightning():
    stored = ["model.embed.weight", "model.layers.0.weight"]
    assert plain_names(stored) == ({name: name for name in stored}, "", ())


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "_orig_mod.module."])
def test_the_counter_of_averaged_model_is_dropped_and_noted(prefix):
    outer, inner = prefix.removesuffix("module."), "module."
    stored = [outer + "n_averaged", *(outer + inner + name for name in NAMES)]
    names, removed, notes = plain_names(stored)
    assert list(names) == NAMES
    assert removed == prefix
    assert notes[1] == "the counter 'n_averaged' of AveragedModel is left out"


def test_a_tensor_called_n_averaged_in_an_unwrapped_model_stays():
    assert list(plain_names(["n_averaged", "weight"])[0]) == ["n_averaged", "weight"]
    assert list(plain_names(["n_averaged"])[0]) == ["n_averaged"]


def test_a_name_that_is_nothing_but_a_prefix_stays():
    assert list(plain_names(["module.", "module.a"])[0]) == ["module.", "module.a"]
    assert plain_names([]) == ({}, "", ())


def test_endless_prefixes_take_no_endless_time():
    (name,), removed, _ = plain_names(["module." * 100_000 + "weight"])
    assert len(name) + len(removed) == len("module.") * 100_000 + len("weight")
    assert removed == "module." * 20


@given(st.sets(st.text("am._od", max_size=9), min_size=1), st.sampled_from(["", "model."]))
def test_no_two_names_become_one(stored, prefix):
    names, removed, _ = plain_names(stored, prefix=prefix)
    dropped = stored - set(names.values())
    assert len(names) + len(dropped) == len(stored)
    assert all(name == old.removeprefix(removed) for name, old in names.items())


@pytest.mark.parametrize(
    "ordered",
    [
        ["epoch-9", "epoch-10", "epoch-100"],
        ["a/2/b", "a/10/b"],
        ["1", "2", "10", "a", "b1", "b2", "b10"],
        ["checkpoint-1.pth.tar", "checkpoint-2.pth.tar", "checkpoint-11.pth.tar", "last.pth.tar"],
        ["v1.9.0", "v1.10.0"],
    ],
)
def test_natural_order_reads_numbers_as_numbers(ordered):
    for shuffled in itertools.islice(itertools.permutations(ordered), 24):
        assert sorted(shuffled, key=natural_key) == ordered


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=5))
def test_any_names_can_be_put_in_order(names):
    keys = [natural_key(name) for name in sorted(names, key=natural_key)]
    assert all(before <= after for before, after in itertools.pairwise(keys))


def test_digits_of_other_scripts_and_powers_are_no_trap():
    assert sorted(["x²", "x٣", "x10", "x2"], key=natural_key)[0:2] == ["x2", "x٣"]


@pytest.mark.parametrize(
    "expected",
    [
        ["epoch-1.pth", "epoch-9.pth", "epoch-10.pth"],
        ["last.pth", "model_best.pth", "epoch-1.pth", "epoch-2.pth"],
        ["resnet50-last.pth", "resnet50-1.pth", "resnet50-2.pth"],
        ["val_loss=0.9-epoch=1.ckpt", "val_loss=0.25-epoch=2.ckpt", "val_loss=0.3-epoch=10.ckpt"],
        ["epoch=1-step=50.ckpt", "epoch=1-step=100.ckpt", "epoch=2-step=20.ckpt"],
        ["epoch=2.ckpt", "epoch=2-v1.ckpt", "epoch=3.ckpt"],
        ["model_epoch_9_acc_0.9.pth", "model_epoch_10_acc_0.1.pth"],
        ["checkpoint-500", "checkpoint-1000"],
    ],
)
def test_names_are_in_the_order_of_the_training(expected):
    assert in_order(expected[::-1]) == expected
