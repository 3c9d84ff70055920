"""Which tensors of a trainer's file are its weights."""

import collections
import io
import tracemalloc

import pytest
import torch

from swa_tools.checkpoints import open_checkpoint
from swa_tools.errors import CheckpointError

STATE = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
OTHER = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
OPTIMIZER = {"state": {"weight": {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


class Configuration(dict):
    """A trainer's own kind of dict."""


@pytest.fixture
def opened(tmp_path):
    def save_and_open(content, **options):
        torch.save(content, tmp_path / "x.pth")
        return open_checkpoint(tmp_path / "x.pth", **options)

    return save_and_open


@pytest.fixture
def refusal(opened, tmp_path):
    def message(content, **options):
        with pytest.raises(CheckpointError) as caught:
            opened(content, **options)
        return str(caught.value).removeprefix(f"{tmp_path / 'x.pth'}: ")

    return message


def assert_takes(checkpoint, state, *notes):
    with checkpoint:
        assert list(checkpoint.tensors) == list(state)
        for name, tensor in state.items():
            assert checkpoint.read(name).tolist() == tensor.tolist()
        assert checkpoint.notes == notes


@pytest.mark.parametrize(
    "extra",
    [io.BytesIO(b"scale"), None, 3, "text", {"scale": torch.ones(4)}, [torch.ones(4)]],
    ids=lambda extra: type(extra).__name__,
)
def test_what_is_no_tensor_in_a_state_dict_is_left_out_by_name(opened, extra):
    state = {**STATE, "0._extra_state": extra}
    taken = "the weights are those under 'model'"
    left = "left out, for they are no tensors: '0._extra_state'"
    assert_takes(opened({"model": state, "epoch": 3}), STATE, taken, left)
    assert_takes(opened(state), STATE, left)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"agents": [STATE]}, "'agents.0'"),
        ({"model": torch.nn.Linear(3, 2)}, "'model (a whole module)'"),
        ({"optimal_model": STATE}, "'optimal_model'"),
    ],
    ids=["in a list", "a whole module", "optimal"],
)
def test_a_set_is_not_taken_where_others_are_more_likely_meant(refusal, beside, named):
    message = refusal({"normalizer": OTHER, **beside, "best_acc1": torch.tensor(76.0)})
    assert message.startswith("several sets of weights in one file: 'normalizer', ")
    assert named in message


def test_a_number_beside_a_whole_module_is_not_taken_for_the_weights(refusal):
    message = refusal({"best_acc1": torch.tensor(76.0), "model": torch.nn.Linear(3, 2)})
    assert message.startswith("it holds a whole module under 'model'")


def test_a_loss_function_that_was_saved_whole_does_not_matter(opened):
    content = {"model": STATE, "loss": torch.nn.CrossEntropyLoss(), "history": [{"acc": 0.5}]}
    assert_takes(opened(content), STATE, "the weights are those under 'model'")


def test_places_with_long_names_take_no_memory(refusal):
    tracemalloc.start()
    children = {str(i): {} for i in range(5000)}
    assert refusal({"k" * 5000: {"k" * 5000: children}}).startswith("no state dict in it")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("beside", ["criterion", "loss", "normalizer", "ema"])
def test_another_set_of_tensors_beside_the_weights_is_never_taken_for_them(refusal, beside):
    for state in (STATE, {**STATE, "0._extra_state": None}):
        assert refusal({"model": state, beside: OTHER, "epoch": 1}) == (
            f"several sets of weights in one file: 'model', {beside!r}; choose one with --entry"
        )


def test_weights_in_parts_are_listed_by_their_places(opened, refusal):
    content = {"model": {"encoder": STATE, "decoder": dict(OTHER)}, "criterion": OTHER}
    assert refusal(content) == (
        "several sets of weights in one file: 'criterion', 'model.encoder', 'model.decoder';"
        " choose one with --entry"
    )
    note = "the weights are those under 'model.encoder'"
    assert_takes(opened(content, entry="model.encoder"), STATE, note)


def test_weights_one_level_deeper_are_found(opened):
    content = {"state": {"step": 3, "model": STATE}, "config": Configuration(lr=0.1)}
    assert_takes(opened(content), STATE, "the weights are those under 'state.model'")


def test_a_subclass_of_dict_is_a_dictionary(opened):
    note = "the weights are those under 'model'"
    assert_takes(opened({"model": Configuration(STATE)}), STATE, note)


@pytest.mark.parametrize(
    "bookkeeping",
    [
        {"optimizer": OPTIMIZER},
        {"opt": OPTIMIZER},
        {"opt": {"state": [{"grad_avg": torch.ones(4)}], "hypers": [{"lr": 0.1}]}},
        {"optimizer_states": [OPTIMIZER]},
        {"optimizer": {"exp_avg": OTHER}},
        {"rng_state": torch.get_rng_state()},
        {"best_acc1": torch.tensor([76.0])},
        {"step": torch.tensor(3)},
        {"metrics": {"loss": torch.tensor(0.5)}},
    ],
    ids=str,
)
def test_what_trainers_keep_beside_is_not_taken_for_weights(opened, bookkeeping):
    content = {"state_dict": STATE, **bookkeeping}
    assert_takes(opened(content), STATE, "the weights are those under 'state_dict'")


def test_an_entry_is_a_path_through_dictionaries_and_lists(opened, refusal):
    content = {"agents": [{"q": STATE, "v.1": OTHER}], "optimizer": {"ema": OTHER}, 3: OTHER}
    for entry, state in {
        "agents.0.q": STATE,
        "agents.0.v.1": OTHER,
        "optimizer.ema": OTHER,
        "3": OTHER,
    }.items():
        note = f"the weights are those under {entry!r}"
        assert_takes(opened(content, entry=entry), state, note)
    for entry in ("agents", "agents.1", "agents.x", "agents.0.q.0.weight", "x"):
        assert f"no weights under {entry!r}; it holds: 'agents.0.q'" in refusal(
            {"agents": [{"q": STATE}]}, entry=entry
        )
    assert "tensors under 'agents.0.q'; choose one with --entry" in refusal(
        {"agents": [{"q": STATE}]}
    )


def test_a_moving_average_kept_as_a_list_gets_the_names_of_the_parameters(opened, refusal):
    moving = [torch.full_like(STATE[name], 7) for name in ("0.weight", "0.bias")]
    moving += [torch.full_like(STATE[name], 8) for name in ("1.weight", "1.bias")]
    content = {"model": STATE, "ema": {"shadow_params": moving, "decay": 0.999}}
    names = ("0.weight", "0.bias", "1.weight", "1.bias")
    expected = STATE | dict(zip(names, moving, strict=True))
    assert_takes(
        opened(content, entry="ema.shadow_params"),
        expected,
        "the weights are those under 'ema.shadow_params'",
        "a list; its names, and BatchNorm's statistics, are those of 'model'",
    )
    listed = "several sets of weights in one file: 'model', 'ema.shadow_params'; choose one"
    assert refusal(content).startswith(listed)
    lone = {"norm": OTHER, "ema": content["ema"]}
    assert "'norm', 'ema.shadow_params'; choose one" in refusal(lone)
    content["ema"]["shadow_params"] = moving[:3]
    assert "is a list of 3 tensors, and no set in the file has" in refusal(
        content, entry="ema.shadow_params"
    )


def test_lightning_files_hold_their_weights_in_the_state_dict(opened):
    content = {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()},
        "callbacks": {"EMA": {"ema_state_dict": OTHER}},
        "hyper_parameters": Configuration(lr=0.1),
    }
    taken = "the weights are those under 'state_dict'"
    removed = "the prefix 'model.' is removed from every name"
    assert_takes(opened(content), STATE, removed, taken)
    deeper = "callbacks.EMA.ema_state_dict"
    assert_takes(opened(content, entry=deeper), OTHER, f"the weights are those under {deeper!r}")


def test_states_of_deepspeed_zero_3_are_refused_with_the_tool_that_gathers_them(opened, refusal):
    def content(state):
        shapes = [collections.OrderedDict((name, t.shape) for name, t in STATE.items())]
        return {"module": state, "param_shapes": shapes, "ds_version": "0.16.0", "optimizer": None}

    empty = {name: torch.empty(0, dtype=torch.bfloat16) for name in STATE}
    for entry in (None, "module"):
        message = refusal(content(empty), entry=entry)
        assert message.startswith("a file of DeepSpeed's ZeRO-3, whose tensors are empty")
        assert "zero_to_fp32.py" in message
    assert_takes(opened(content(STATE)), STATE, "the weights are those under 'module'")


def test_the_search_in_a_hostile_file_ends(refusal):
    inner = {"x": 1}
    for _ in range(40):  # 2^40 paths
        inner = {"a": inner, "b": inner}
    loop = {"model": {}}
    loop["model"]["again"] = loop
    assert refusal(inner).startswith("no state dict in it")
    assert refusal(loop).startswith("no state dict in it")
