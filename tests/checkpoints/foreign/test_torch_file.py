"""Files of torch.save as trainers write them, and those that nobody should load."""

import argparse
import collections
import os
import pickle
import pickletools
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel

from swa_tools.checkpoints import content_digest, open_checkpoint, write_checkpoint
from swa_tools.checkpoints.foreign.stored_tensor import TORCH_DTYPES
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
    with open_checkpoint(path, entry=entry) as checkpoint:
        assert checkpoint.notes == (f"the weights are those under {entry!r}",)


def test_the_entry_of_a_single_set_may_be_named(save):
    path = save(CONTENTS["timm"][0])
    assert_reads(path, STATE, entry="state_dict")
    assert refusal(path, entry="x") == "no weights under 'x'; it holds: 'state_dict'"
    assert refusal(save(STATE), entry="x").endswith("it holds: '.' (the file itself)")
    assert_reads(path, STATE, entry=".")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed_unless_the_names_are_kept(save, prefix):
    path = save(prefixed(STATE, prefix))
    assert_reads(path, STATE)
    assert_reads(path, prefixed(STATE, prefix), keep_names=True)


def test_a_prefix_that_only_lightning_adds_stays_in_the_files_of_others(save):
    state = prefixed(STATE, "model.")
    assert_reads(save(state), state)
    assert_reads(save({"state_dict": state}), state)
    lightning = {"state_dict": state, "pytorch-lightning_version": "2.5.0"}
    assert_reads(save(lightning), STATE)
    assert_reads(save(lightning), state, keep_names=True)
    with open_checkpoint(save(lightning)) as checkpoint:
        assert "the prefix 'model.' is removed from every name" in checkpoint.notes


def test_averaged_model_is_read_without_its_counter(save):
    model = AveragedModel(network())
    path = save(model.state_dict())
    assert_reads(path, STATE)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == (
            "the prefix 'module.' is removed from every name",
            "the counter 'n_averaged' of AveragedModel is left out",
        )


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(getattr(torch, name), {}) for name in TORCH_DTYPES if hasattr(torch, name)]
    + [(dtype, OLD_FORMAT) for dtype in (torch.float64, torch.float32, torch.float16, torch.bool)]
    + [(dtype, OLD_FORMAT) for dtype in (torch.bfloat16, torch.complex64, torch.int64, torch.int8)],
)
def test_every_dtype_is_read(save, dtype, options):
    codes = torch.arange(64, dtype=torch.uint8)
    tensor = (codes % 2 if dtype == torch.bool else codes).view(dtype)
    with open_checkpoint(save({"w": tensor}, **options)) as checkpoint:
        assert checkpoint.tensors["w"].dtype == TORCH_DTYPES[str(dtype).removeprefix("torch.")]
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


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    order=st.randoms(use_true_random=False),
    steps=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    dtype=st.sampled_from([torch.float64, torch.bfloat16, torch.complex64, torch.bool]),
    is_zip=st.booleans(),
)
def test_any_view_of_any_tensor_is_read_as_torch_reads_it(shape, order, steps, dtype, is_zip):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    whole = torch.randn([n * step for n, step in zip(shape, steps, strict=False)]).to(dtype)
    view = whole[tuple(slice(None, None, step) for step in steps[: len(shape)])].permute(axes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pth"
        torch.save({"w": view}, path, _use_new_zipfile_serialization=is_zip)
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.tensors["w"].shape == tuple(view.shape)
            expected = torch.tensor(view.tolist(), dtype=dtype).reshape(-1)
            expected = expected.view(torch.uint8).numpy().tobytes() if view.numel() else b""
            assert checkpoint.read_bytes("w") == expected


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
    def test_code_in_a_pickle_is_not_run(self, save, tmp_path, options, place):
        proof = tmp_path / "it-ran"
        payload = Payload(proof)
        content = {
            "beside": {"state_dict": STATE, "callback": payload},
            "inside": {**STATE, "0.weight": payload},
            "alone": payload,
            "namespace": {"state_dict": STATE, "args": argparse.Namespace(x=payload)},
        }[place]
        path = save(content, **options)
        if place == "alone":
            assert refusal(path) == "expected a dictionary of tensors, found a 'posix.mkdir'"
        elif place == "inside":
            assert_reads(path, {name: t for name, t in STATE.items() if name != "0.weight"})
        else:
            assert_reads(path, STATE)
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
        for content, place in ((network(), ""), ({"model": network()}, " under 'model'")):
            assert refusal(save(content, **options)) == (
                f"it holds a whole module{place}, a 'torch.nn.modules.container.Sequential', which"
                " can be loaded only by running its code; where that code is at hand, save its"
                " state_dict()"
            )

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "expected a dictionary of tensors, found list"),
            (torch.ones(3), "expected a dictionary of tensors, found Tensor"),
            ({}, "no state dict in it: expected tensors by name, found $"),
            ({"epoch": 3, "arch": "x"}, "expected tensors by name, found 'epoch', 'arch'$"),
            ({str(i): i for i in range(100)}, "'11' and 88 more$"),
            ([STATE, EMA], "found list with weights under '0', '1'; choose one with --entry"),
            ({"a\nb" * 1000: 1}, "found 'a.nba"),
            ({2**20_000: 1}, "found '<a key>'$"),
            ({1: torch.ones(1)}, "no state dict in it"),
            ({"w": torch.ones(2).to_sparse()}, "tensor 'w' is sparse or quantized"),
            ({"w": torch.ones(2, dtype=torch.complex128)}, "tensor 'w' has dtype 'complex128'"),
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

    def test_a_zip_whose_records_overlap_or_repeat_is_refused(self, save):
        path = save({"w": torch.arange(1000.0), "v": torch.zeros(1000)})
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            one, other = (archive.getinfo(f"x/data/{n}").header_offset for n in (0, 1))
        place = content.rindex(other.to_bytes(4, "little"))
        path.write_bytes(content[:place] + one.to_bytes(4, "little") + content[place + 4 :])
        assert re.search("overlap|cut off", refusal(path))
        path.write_bytes(content.replace(b"x/data/1", b"x/data/0"))
        assert "stands in it twice" in refusal(path)

    @pytest.mark.parametrize("position", [2**62, 2**64 - 129])
    def test_a_zip_directory_that_claims_to_be_elsewhere_is_refused(self, save, position):
        """What zipfile makes of it is that the records begin far before the file."""
        path = save({"w": torch.zeros(3)})
        content = path.read_bytes()
        place = content.rindex(b"PK\x06\x06") + 48
        path.write_bytes(content[:place] + position.to_bytes(8, "little") + content[place + 8 :])
        assert refusal(path)

    def test_a_zip_whose_records_stand_outside_of_it_is_refused(self, tmp_path):
        path = tmp_path / "x.pth"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x/data.pkl", pickle.dumps({}))
        content = path.read_bytes()
        for n in range(3, 7):  # the place of its directory
            path.write_bytes(content[:-n] + b"\xf0" + content[len(content) - n + 1 :])
            assert "is cut off" in refusal(path)

    def test_a_zip_bomb_is_refused(self, save):
        path = save({"w": torch.zeros(1_000_000)})
        with zipfile.ZipFile(path) as old:
            records = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name, data in records.items():
                new.writestr(name, data)
        assert path.stat().st_size < 10_000
        assert "its record 'x/data.pkl' is compressed" in refusal(path)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0, (2**31, 2**31), (0, 0)), "claims 18446744073709551616 bytes"),
            ((0, (9,), (1,)), "reaches beyond its storage of 32 bytes"),
            ((2**70, (1,), (1,)), "reaches beyond its storage"),
            ((2, (4,), (2,)), "reaches beyond its storage"),
            ((-1, (1,), (1,)), "a tensor without a storage"),
            ((0, (-1,), (1,)), "a tensor without a shape"),
            ((0, (2,), (-1,)), "a tensor without a shape"),
            ((0, (2, 2), (1,)), "a tensor without a shape"),
            ((0, ("2",), (1,)), "a tensor without a shape"),
            ((0, (True,), (1,)), "a tensor without a shape"),
            ((0, (2**20_000,), (1,)), "a tensor without a shape"),
            ((0, (1,), (2**63,)), "a tensor without a shape"),
            ((0, (1,) * 101, (1,) * 101), "a tensor without a shape"),
            ((0, (0, 2**40, 2**40), (1, 1, 1)), "claims 0 bytes in 3 dimensions"),
        ],
    )
    def test_tensors_of_torch_with_hostile_arguments_are_refused(self, save, arguments, message):
        class Hostile:
            def __reduce__(self):
                storage = torch.ones(8).untyped_storage()
                typed = torch.storage.TypedStorage(
                    wrap_storage=storage, dtype=torch.float32, _internal=True
                )
                return torch._utils._rebuild_tensor_v2, (typed, *arguments, False, None)

        assert message in refusal(save({"w": Hostile()}))

    @pytest.mark.parametrize(
        ("storage", "flags", "message"),
        [
            (b"ctorch\nF4\n", b"}", "a storage of unknown type 'F4'"),
            (b"](" * 50_000 + b"e" * 50_000, b"}", "a storage of unknown type 'list'"),
            (b"ctorch\nBoolStorage\n", b"}U\x03neg\x88s", "is a negated view of BOOL"),
        ],
        ids=["a dtype without whole bytes", "deeply nested", "a negated boolean"],
    )
    def test_hostile_storages_are_refused(self, tmp_path, storage, flags, message):
        reference = b"(U\x07storage" + storage + b"U\x010U\x03cpuK\x08tQ"
        tensor = reference + b"K\x00K\x08\x85K\x01\x85\x89}" + flags
        path = tmp_path / "x.pth"
        with zipfile.ZipFile(path, "w") as file:
            call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor + b"tR"
            file.writestr("x/data.pkl", b"\x80\x02}U\x01w" + call + b"s.")
            file.writestr("x/data/0", bytes(8))
        assert message in refusal(path)

    def test_strides_along_single_elements_do_not_matter(self, tmp_path):
        """torch computes with them, as long as they are 64-bit numbers."""
        path = tmp_path / "x.pth"
        torch.save({"w": torch.arange(4.0).as_strided((1, 2, 2), (2**62, 1, 2))}, path)
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("w").tolist() == [[[0, 2], [1, 3]]]

    @pytest.mark.parametrize("key", [b"]" * 50_000 + b"a" * 49_999, b"U\x01x"])
    def test_an_old_file_with_hostile_names_of_storages_is_refused(self, save, tmp_path, key):
        path = save({"w": torch.ones(3)}, **OLD_FORMAT)
        with open(path, "rb") as file:
            parts = [list(pickletools.genops(file)) and file.tell() for _ in range(4)]
        path.write_bytes(path.read_bytes()[: parts[-1]] + b"\x80\x02](" + key + b"e." + bytes(20))
        assert "its list of storages names one that no tensor has" in refusal(path)

    def test_a_line_without_end_is_not_read_to_the_end_of_the_file(self, tmp_path):
        path = tmp_path / "x.pth"
        path.write_bytes(b"S'")
        os.truncate(path, 100 << 30)  # a hole, which takes no space
        assert "one of its lines has over" in refusal(path)

    @pytest.mark.filterwarnings("ignore:.*deprecated")
    def test_a_program_is_refused_with_the_way_to_its_weights(self, tmp_path):
        """torch compresses its code."""
        torch.jit.script(network()).save(tmp_path / "x.pth")
        assert refusal(tmp_path / "x.pth").startswith("a TorchScript archive, which holds a prog")
        np.savez_compressed(tmp_path / "x.npz", w=np.zeros(3))
        assert refusal(tmp_path / "x.npz").startswith("arrays of NumPy's (.npz)")

    def test_tensors_in_a_plain_pickle_are_refused_with_the_way_to_save_them(self, tmp_path):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(STATE))
        assert refusal(tmp_path / "x.pkl") == (
            "a pickle that torch.save did not write (it holds 'dict'); save the state_dict with"
            " torch.save, or as safetensors"
        )

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
            message = refusal(path)
            assert options or n_bytes < 37 or "was it cut off while it was written" in message

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
    def saved(self, save):
        return save({"w": torch.arange(200_000.0), "v": torch.zeros(3)})

    def test_a_file_that_became_shorter_is_an_error(self, saved):
        with open_checkpoint(saved) as checkpoint:
            os.truncate(saved, 1000)
            with pytest.raises(CheckpointError, match="x.pth: it became shorter while"):
                checkpoint.read("w")

    def test_a_file_that_changed_is_an_error(self, saved):
        with open_checkpoint(saved) as checkpoint:
            before = saved.stat().st_mtime_ns
            os.utime(saved, ns=(before + 10, before + 10))
            with pytest.raises(CheckpointError, match="x.pth: it changed while it was read"):
                checkpoint.check_unchanged()

    def test_a_file_that_is_replaced_is_read_as_it_was(self, saved):
        with open_checkpoint(saved) as checkpoint:
            os.replace(saved, saved.with_name("moved.pth"))
            saved.write_bytes(b"something else")
            assert checkpoint.read("w")[-1] == 199_999
            checkpoint.check_unchanged()


def test_digest_of_a_pickled_file_is_that_of_its_tensors(save, tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    write_checkpoint(tmp_path / "a.safetensors", arrays, None)
    path = save(prefixed(STATE, "module."))
    assert content_digest(path) == content_digest(tmp_path / "a.safetensors")
