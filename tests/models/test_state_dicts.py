import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from swa_tools.checkpoints import BnInfo, CheckpointMetadata, read_metadata
from swa_tools.errors import CheckpointError, ModelError
from swa_tools.models import load_into, load_state_dict, save_state_dict

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.bool,
]
METADATA = CheckpointMetadata(kind="checkpoint", bn=BnInfo(state="trained"), swa_tools="0.1.0")


def bits(tensor):
    """The bytes of a tensor, for comparisons that NaN does not disturb."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("state_dicts")


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**30),
)
def test_tensors_of_every_dtype_and_shape_come_back(folder, shape, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    values = torch.randint(-100, 100, shape, generator=random).to(dtype)
    path = folder / "file.safetensors"
    save_state_dict(path, {"a": values, "b.c": torch.ones(2)}, None, force=True)
    found = load_state_dict(path)
    assert found.keys() == {"a", "b.c"}
    assert (found["a"].dtype, found["a"].shape) == (dtype, values.shape)
    assert bits(found["a"]) == bits(values)
    if dtype in safetensors.torch._SIZE:  # older versions lack some
        theirs = safetensors.torch.load_file(path)
        assert bits(theirs["a"]) == bits(values)


def test_memory_format_and_gradients_do_not_matter(tmp_path):
    values = torch.randn(2, 3, 4, 5)
    state_dict = {
        "channels_last": values.to(memory_format=torch.channels_last),
        "transposed": values.transpose(0, 3),
        "parameter": nn.Parameter(values),
        "expanded": torch.ones(1).expand(3),
    }
    save_state_dict(tmp_path / "file.safetensors", state_dict, METADATA)
    for name, found in load_state_dict(tmp_path / "file.safetensors").items():
        assert torch.equal(found, state_dict[name])
        assert found.is_contiguous()
        assert not found.requires_grad
    assert read_metadata(tmp_path / "file.safetensors") == METADATA


def test_loaded_tensors_can_be_written_to(tmp_path):
    save_state_dict(tmp_path / "file.safetensors", {"a": torch.zeros(3)}, None)
    loaded = load_state_dict(tmp_path / "file.safetensors")["a"].add_(1)
    assert torch.equal(loaded, torch.ones(3))
    assert torch.equal(load_state_dict(tmp_path / "file.safetensors")["a"], torch.zeros(3))


def test_tied_tensors_of_safetensors_save_model_come_back(tmp_path):
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    safetensors.torch.save_model(module, str(tmp_path / "file.safetensors"))
    found = load_state_dict(tmp_path / "file.safetensors")
    assert set(found) == {"0.weight", "1.weight"}
    assert torch.equal(found["0.weight"], found["1.weight"])


def test_pickled_state_dict_is_read(tmp_path):
    state_dict = {"module.a": torch.randn(3).to(torch.bfloat16), "module.b": torch.tensor(7)}
    torch.save({"state_dict": state_dict, "epoch": 3}, tmp_path / "file.pth.tar")
    found = load_state_dict(tmp_path / "file.pth.tar")
    assert torch.equal(found["a"], state_dict["module.a"])
    assert torch.equal(found["b"], state_dict["module.b"])


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors"):
        load_state_dict(tmp_path / "nothing.safetensors")


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_state_dict_is_copied_into_a_module_and_converted_to_its_dtype():
    source, target = network(), network()
    values = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in source.state_dict().items()
    }
    load_into(target, values, where="file")
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, values["0.weight"].float())


def test_counters_that_old_files_lack_may_be_missing():
    state_dict = network().state_dict()
    del state_dict["1.num_batches_tracked"]
    load_into(network(), state_dict, where="file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("0.weight"), "it lacks '0.weight'"),
        (lambda d: d.update(more=torch.ones(1)), "the model has no 'more'"),
        (
            lambda d: d.update({"0.weight": torch.ones(5, 2)}),
            r"other shapes: '0.weight' is \(5, 2\) instead of \(3, 2\)",
        ),
        (lambda d: d.clear(), "it lacks '0.weight', '0.bias', '1.weight' and 3 more"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_changes(change, message):
    module, state_dict = network(), network().state_dict()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    change(state_dict)
    with pytest.raises(
        ModelError, match=f"some.pth: these weights do not fit .*{message}"
    ) as error:
        load_into(module, state_dict, where="some.pth")
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
