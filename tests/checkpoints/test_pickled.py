"""Files of torch.save as trainers write them, and those that nobody should load."""

import argparse
import collections
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from swa_tools.checkpoints import content_digest, open_checkpoint, write_checkpoint
from swa_tools.checkpoints.pickled import TORCH_DTYPES
from swa_tools.errors import CheckpointError

OLD_FORMAT = {"_use_new_zipfile_serialization": False}
FORMATS = pytest.mark.parametrize("options", [{}, OLD_FORMAT], ids=["zip", "old"])


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )


STATE = network().state_dict()
EMA = {name: tensor + 1 for name, tensor in STATE.items()}
OPTIMIZER = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9).state_dict()
ARGS = argparse.Namespace(model="resnet50", lr=0.1, opt_betas=None, aug=("rand", 9))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture
def save(tmp_path):
    def write(content, name="x.pth", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write


def assert_reads(path, state, **options):
    with open_checkpoint(path, **options) as checkpoint:
        assert list(checkpoint.tensors) == list(state)
        for name, tensor in state.items():
            array = checkpoint.read(name)
            assert array.shape == tuple(tensor.shape)
            np.testing.assert_array_equal(array, tensor.detach().numpy())
        checkpoint.check_unchanged()


def refusal(path, **options):
    n_open = len(os.listdir("/dev/fd"))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    assert len(os.listdir("/dev/fd")) == n_open
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 900 + len(str(path))
    return message.removeprefix(f"{path}: ")


@FORMATS
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pth.tar", "x.bin", "x.ckpt", "x"])
def test_a_plain_state_dict_is_read_whatever_its_name(save, name, options):
    assert_reads(save(STATE, name, **options), STATE)


CONTENTS = {
    "torchvision": ({"model": STATE, "optimizer": OPTIMIZER, "epoch": 3, "args": ARGS}, None),
    "torchvision ema": ({"model": STATE, "model_ema": EMA, "args": ARGS, "scaler": {}}, "model"),
    "timm": (
        {
            "epoch": 3,
            "arch": "resnet50",
            "state_dict": STATE,
            "optimizer": OPTIMIZER,
            "version": 2,
            "args": ARGS,
            "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0},
            "metric": 76.1,
        },
        None,
    ),
    "timm ema": ({"state_dict": STATE, "state_dict_ema": EMA, "args": ARGS}, "state_dict"),
    "lightning": (
        {
            "epoch": 3,
            "global_step": 10,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": collections.OrderedDict(prefixed(STATE, "model.")),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": 0.5}},
            "optimizer_states": [OPTIMIZER],
            "lr_schedulers": [],
            "hyper_parameters": {"lr": 0.1},
        },
        None,
    ),
    "swa authors": (
        {
            "epoch": 3,
            "state_dict": STATE,
            "swa_state_dict": EMA,
            "swa_n": 2,
            "optimizer": OPTIMIZER,
        },
        "state_dict",
    ),
    "mode connectivity": ({"epoch": 3, "model_state": STATE, "optimizer_state": OPTIMIZER}, None),
    "imagenet example": (
        {"arch": "resnet50", "best_acc1": torch.tensor(76.0), "state_dict": STATE},
        None,
    ),
    "nn.Parameters": (dict(network().named_parameters()), None),
}


@FORMATS
@pytest.mark.parametrize("trainer", CONTENTS)
def test_what_trainers_write_is_read(save, trainer, options):
    content, entry = CONTENTS[trainer]
    expected = content if trainer == "nn.Parameters" else STATE
    assert_reads(save(content, **options), expected, entry=entry)


@pytest.mark.parametrize(
    ("trainer", "entry"),
    [
        ("torchvision ema", "model_ema"),
        ("timm ema", "state_dict_ema"),
        ("swa authors", "swa_state_dict"),
    ],
)
def test_which_of_several_sets_is_never_guessed(save, trainer, entry):
    content, other = CONTENTS[trainer]
    path = save(content)
    message = refusal(path)
    assert message.startswith("several sets of weights in one file: ")
    assert repr(entry) in message
    assert repr(other) in message
    assert message.endswith("choose one with --entry")
    assert_reads(path, EMA, entry=entry)
    assert "no weights under 'ema'; it holds: " in refusal(path, entry="ema")


def test_the_entry_of_a_single_set_may_be_named(save):
    path = save(CONTENTS["timm"][0])
    assert_reads(path, STATE, entry="state_dict")
    assert refusal(path, entry="x") == "no weights under 'x'; it holds: 'state_dict'"
    assert "it holds: '(the file itself)'" in refusal(save(STATE), entry="x")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."]
)
def test_prefixes_of_wrappers_are_removed(save, prefix):
    assert_reads(save(prefixed(STATE, prefix)), STATE)


def test_averaged_model_is_read_without_its_counter(save):
    model = AveragedModel(network())
    path = save(model.state_dict())
    assert_reads(path, STATE)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == (
            "the prefix 'module.' is removed from every name",
            "the counter 'n_averaged' of AveragedModel is left out",
        )


def test_the_old_format_says_that_it_is_held_in_memory(save):
    path = save({"w": torch.ones(500_000)}, **OLD_FORMAT)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == ("torch.save's old format is held in memory whole: 2.0 MB",)
    with open_checkpoint(save(STATE)) as checkpoint:
        assert checkpoint.notes == ()


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(dtype, {}) for dtype in TORCH_DTYPES]
    + [(dtype, OLD_FORMAT) for dtype in (torch.float64, torch.float32, torch.float16, torch.bool)]
    + [(dtype, OLD_FORMAT) for dtype in (torch.bfloat16, torch.complex64, torch.int64, torch.int8)],
)
def test_every_dtype_is_read(save, dtype, options):
    codes = torch.arange(64, dtype=torch.uint8)
    tensor = (codes % 2 if dtype == torch.bool else codes).view(dtype)
    with open_checkpoint(save({"w": tensor}, **options)) as checkpoint:
        assert checkpoint.tensors["w"].dtype == TORCH_DTYPES[dtype]
        assert bytes(checkpoint.read_bytes("w")) == tensor.view(torch.uint8).numpy().tobytes()


@FORMATS
@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 3),
        lambda t: t[::2, :, 1:],
        lambda t: t[:1].expand(3, -1, -1, -1),
        lambda t: t[0, 0, 0, 0],
        lambda t: t[:, :0],
        lambda t: torch.from_numpy(np.zeros(0, np.float32)),
        lambda t: t[1:],
    ],
    ids=[
        "channels_last",
        "transposed",
        "strided",
        "expanded",
        "scalar",
        "empty",
        "empty of NumPy",
        "view",
    ],
)
def test_a_tensor_in_any_layout_is_read_as_its_numbers(save, make, options):
    tensor = make(torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5))
    state = {"w": tensor, "other": torch.ones(3)}
    assert_reads(save(state, **options), state)


def test_a_channels_last_tensor_of_several_blocks_is_read_from_any_offset(save):
    tensor = torch.randn(2, 64, 40, 40).to(memory_format=torch.channels_last)
    expected = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    with open_checkpoint(save({"w": tensor, "v": -tensor})) as checkpoint:
        for offset, n_bytes in ((0, 100), (700_001, 50_000), (len(expected) - 7, 7)):
            buffer = bytearray(n_bytes)
            checkpoint.read_into("w", offset, memoryview(buffer))
            assert buffer == expected[offset : offset + n_bytes]
            checkpoint.read_into("v", offset, memoryview(buffer))


def test_conjugated_and_negated_views_are_read_as_their_numbers(save):
    tensor = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    path = save({"conj": tensor.conj(), "neg": torch._neg_view(torch.ones(2))})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("conj").tolist() == [1 - 2j, 3 + 4j]
        assert checkpoint.read("neg").tolist() == [-1, -1]


def test_tensors_that_share_memory_are_read_as_two(save):
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"a": weight, "b": weight, "c": weight.T}
    assert_reads(save(state), state)


def test_numbers_beside_the_weights_are_kept(save):
    content = {
        "state_dict": STATE,
        "epoch": 3,
        "best_acc1": torch.tensor(76.5),
        "huge": 10**400,
        "arch": "resnet50",
        "meta": torch.ones(1, device="meta"),
    }
    with open_checkpoint(save(content)) as checkpoint:
        assert checkpoint.numbers == {"epoch": 3.0, "best_acc1": 76.5}


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestFilesThatAreRefused:
    @FORMATS
    @pytest.mark.parametrize("place", ["beside", "inside", "alone", "namespace"])
    def test_code_in_a_pickle_is_refused_and_not_run(self, save, tmp_path, options, place):
        proof = tmp_path / "it-ran"
        payload = Payload(proof)
        content = {
            "beside": {"state_dict": STATE, "callback": payload},
            "inside": {**STATE, "weight": payload},
            "alone": payload,
            "namespace": {"state_dict": STATE, "args": argparse.Namespace(x=payload)},
        }[place]
        path = save(content, **options)
        message = refusal(path)
        assert "refused: it holds a Python object besides tensors, posix.mkdir" in message
        assert not proof.exists()

    @FORMATS
    def test_the_payload_of_these_tests_would_run_elsewhere(self, save, tmp_path, options):
        path = save({"callback": Payload(tmp_path / "it-ran")}, **options)
        torch.load(path, weights_only=False)
        assert (tmp_path / "it-ran").exists()

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_plain_pickle_with_code_is_refused_and_not_run(self, tmp_path, protocol):
        path = tmp_path / "x.pth"
        path.write_bytes(pickle.dumps(Payload(tmp_path / "it-ran"), protocol))
        assert refusal(path)
        assert not (tmp_path / "it-ran").exists()

    @FORMATS
    def test_a_whole_module_is_refused_with_its_class(self, save, options):
        message = refusal(save(network(), **options))
        assert "refused: it holds a Python object" in message
        assert "torch.nn.modules" in message
        assert "save its state_dict alone" in message

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "expected a dictionary of tensors, found list"),
            (torch.ones(3), "expected a dictionary of tensors, found Tensor"),
            ({}, "no state dict in it: expected tensors by name, found $"),
            ({"epoch": 3, "arch": "x"}, "expected tensors by name, found 'epoch', 'arch'$"),
            ({str(i): i for i in range(100)}, "'11' and 88 more$"),
            ({"a\nb" * 1000: 1}, "found 'a.nba"),
            ({1: torch.ones(1)}, "no state dict in it"),
            ({"w": torch.ones(2).to_sparse()}, "tensor 'w' is sparse or quantized"),
            ({"w": torch.ones(2, dtype=torch.complex128)}, "tensor 'w' has dtype torch.complex128"),
            ({"w": torch.ones(2, device="meta")}, "tensor 'w' holds no data"),
            ({"w": torch.ones(1).expand(10**6)}, "tensor 'w' claims 4000000 bytes in 1 dimensions"),
            ({"w": torch.ones(1).expand(2**31, 2**31)}, "claims 18446744073709551616 bytes"),
            ({"w": torch.ones([1] * 65)}, "tensor 'w' claims 4 bytes in 65 dimensions"),
            ({"\ud800": torch.ones(1)}, "the name '.ud800' is not valid Unicode"),
        ],
    )
    def test_what_holds_no_dense_weights_is_refused(self, save, content, message):
        found = refusal(save(content))
        assert re.search(message, found), found

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"x",
            b"hello, world" * 100,
            b"PK\x03\x04" + b"\0" * 100,
            b"\x80\x02}q\x00.",
            b"\x80\x02",
            pickle.dumps({"w": np.ones(3)}),
        ],
        ids=["empty", "x", "text", "zip", "dict", "cut", "numpy"],
    )
    def test_a_file_of_something_else_is_refused(self, tmp_path, content):
        path = tmp_path / "x.pth"
        path.write_bytes(content)
        assert refusal(path)

    def test_a_zip_of_something_else_is_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
            file.writestr("hello.txt", "hello")
        assert "not a checkpoint that can be read" in refusal(tmp_path / "x.pth")

    @FORMATS
    def test_every_cut_is_refused(self, save, tmp_path, options):
        content = save({"w": torch.ones(3)}, **options).read_bytes()
        path = tmp_path / "cut.pth"
        for n_bytes in range(0, len(content), 37):
            path.write_bytes(content[:n_bytes])
            assert refusal(path)

    def test_a_pickle_that_claims_a_huge_storage_is_refused(self, save, tmp_path):
        path = save({"w": torch.ones(3)}, **OLD_FORMAT)
        content = path.read_bytes()
        three, huge = b"K\x03N", b"\x8a\x08" + b"\xff" * 7 + b"\x7fN"
        assert content.count(three) == 1
        path.write_bytes(content.replace(three, huge))
        assert refusal(path)

    def test_a_tensor_whose_name_safetensors_reserves_cannot_be_written(self, save, tmp_path):
        with open_checkpoint(save({"__metadata__": torch.ones(1)})) as checkpoint:
            arrays = {name: checkpoint.read(name) for name in checkpoint.tensors}
        with pytest.raises(CheckpointError, match="no tensor of the name '__metadata__'"):
            write_checkpoint(tmp_path / "a.safetensors", arrays, None)


class TestFilesThatChange:
    @pytest.fixture
    def mapped(self, save):
        return save({"w": torch.arange(200_000.0), "v": torch.zeros(3)})

    def test_a_mapped_file_that_became_shorter_is_an_error_not_a_sigbus(self, mapped):
        with open_checkpoint(mapped) as checkpoint:
            os.truncate(mapped, 1000)
            with pytest.raises(CheckpointError, match="x.pth: it changed while it was read"):
                checkpoint.read("w")

    def test_a_mapped_file_that_changed_is_an_error(self, mapped):
        with open_checkpoint(mapped) as checkpoint:
            before = mapped.stat().st_mtime_ns
            os.utime(mapped, ns=(before + 10, before + 10))
            with pytest.raises(CheckpointError, match="x.pth: it changed while it was read"):
                checkpoint.check_unchanged()

    def test_a_file_that_is_replaced_is_read_as_it_was(self, mapped):
        with open_checkpoint(mapped) as checkpoint:
            os.replace(mapped, mapped.with_name("moved.pth"))
            mapped.write_bytes(b"something else")
            assert checkpoint.read("w")[-1] == 199_999
            checkpoint.check_unchanged()

    def test_a_closed_file_is_no_longer_mapped(self, mapped):
        if not os.path.exists("/proc/self/maps"):
            pytest.skip("/proc is Linux's")

        def is_mapped():
            with open("/proc/self/maps") as maps:
                return str(mapped) in maps.read()

        with open_checkpoint(mapped) as checkpoint:
            assert is_mapped()
            array = checkpoint.read("w")
        del checkpoint
        assert not is_mapped()
        assert array[-1] == 199_999


def test_digest_of_a_pickled_file_is_that_of_its_tensors(save, tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    write_checkpoint(tmp_path / "a.safetensors", arrays, None)
    path = save(prefixed(STATE, "module."))
    assert content_digest(path) == content_digest(tmp_path / "a.safetensors")
