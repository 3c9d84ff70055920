import pytest
import torch
from torch import nn

from swa_tools.data import Batch
from swa_tools.errors import ModelError
from swa_tools.evaluation import ModelBank

NAMES = ["a", "b", "c", "d"]


def sources_that_count(reads):
    def source(value):
        def read():
            reads.append(value)
            return {"weight": torch.full((2, 3), float(value)), "bias": torch.zeros(2)}

        return read

    return {name: source(value) for value, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("at_once", "expected"),
    [
        (1, [0, 1, 2, 3, 0, 1, 2, 3]),
        (3, [0, 1, 2, 3, 2, 3]),
        (4, [0, 1, 2, 3]),
        (9, [0, 1, 2, 3]),
    ],
)
def test_weights_are_read_again_only_where_they_had_to_go(at_once, expected):
    reads = []
    bank = ModelBank(nn.Linear(3, 2), sources_that_count(reads), at_once=at_once)
    for _ in range(2):
        for value, name in enumerate(NAMES):
            assert bank.module_of(name).weight.unique().tolist() == [value]
    assert reads == expected
    assert len({id(bank.module_of(name)) for name in NAMES}) == min(at_once, 4)


def test_predictors_run_their_own_weights():
    bank = ModelBank(nn.Linear(3, 2), sources_that_count([]), at_once=2)
    batch = Batch(images=torch.ones(1, 3), targets=torch.zeros(1), indices=torch.zeros(1))
    predictors = [bank.predictor(name) for name in NAMES]
    assert [predict(batch)[0, 0].item() for predict in predictors] == [0.0, 3.0, 6.0, 9.0]


def test_weights_that_do_not_fit_are_named_and_never_run():
    sources = sources_that_count([]) | {"b": lambda: {"weight": torch.zeros(5, 3)}}
    bank = ModelBank(nn.Linear(3, 2), sources, at_once=1)
    bank.module_of("a")
    with pytest.raises(ModelError, match="^b: "):
        bank.module_of("b")
    assert bank.module_of("a").weight.unique().tolist() == [0.0]


def test_at_least_one_module_is_in_memory():
    with pytest.raises(ValueError, match="at least 1"):
        ModelBank(nn.Linear(3, 2), {}, at_once=0)
