"""From files to a file: any format in, what is written, what is refused."""

import json
import os

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch.optim.swa_utils import AveragedModel

from swa_tools.averaging import (
    AverageOptions,
    Ema,
    Interpolate,
    Uniform,
    Weights,
    average_checkpoints,
)
from swa_tools.checkpoints import (
    BnInfo,
    CheckpointMetadata,
    ModelInfo,
    Preprocessing,
    content_digest,
    open_checkpoint,
    read_metadata,
    write_checkpoint,
)
from swa_tools.errors import CheckpointError, OutputError

MODEL = ModelInfo(name="timm/test_resnet", num_classes=5, classes=("a", "b", "c", "d", "e"))
PREPROCESSING = Preprocessing(
    image_size=96,
    resize=110,
    crop="center",
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
TRAINED = CheckpointMetadata(
    kind="checkpoint",
    model=MODEL,
    preprocessing=PREPROCESSING,
    bn=BnInfo(state="trained"),
    swa_tools="0.1.0",
)


def as_tensors(state):
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


@pytest.fixture
def reference(checkpoints, states, average):
    """Give three states and the bytes of the average of their safetensors files."""
    written = states(3)
    return written, average(checkpoints(*written))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


class TestFormats:
    """Whatever the files are, the average is the same."""

    def check(self, paths, reference, average, **options):
        found = average(paths, **options)
        assert_same(found, reference[1])

    @pytest.mark.parametrize("is_zip", [True, False])
    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
    def test_pickled_files(self, tmp_path, reference, average, is_zip, prefix):
        paths = []
        for number, state in enumerate(reference[0]):
            tensors = {prefix + name: tensor for name, tensor in as_tensors(state).items()}
            paths.append(tmp_path / f"{number}.pth")
            torch.save(
                {"state_dict": tensors, "epoch": number},
                paths[-1],
                _use_new_zipfile_serialization=is_zip,
            )
        self.check(paths, reference, average)

    def test_an_entry_of_several(self, tmp_path, reference, average):
        paths = []
        for number, state in enumerate(reference[0]):
            paths.append(tmp_path / f"{number}.pth.tar")
            tensors = as_tensors(state)
            other = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
            torch.save({"state_dict": other, "state_dict_ema": tensors}, paths[-1])
        with pytest.raises(CheckpointError, match="several sets of weights"):
            average(paths)
        self.check(paths, reference, average, entry="state_dict_ema")

    def test_sources_that_are_sharded_differently(self, tmp_path, reference, average):
        names = list(reference[0][0])
        cuts = [[names], [names[:3], names[3:]], [names[::2], names[1::2]]]
        paths = []
        for number, (state, shards) in enumerate(zip(reference[0], cuts, strict=True)):
            folder = tmp_path / f"sharded-{number}"
            folder.mkdir()
            weight_map = {}
            for i, shard in enumerate(shards):
                arrays = {name: state[name] for name in shard}
                write_checkpoint(folder / f"{i}.safetensors", arrays, None)
                weight_map |= dict.fromkeys(shard, f"{i}.safetensors")
            paths.append(folder / "model.safetensors.index.json")
            paths[-1].write_text(json.dumps({"weight_map": weight_map}))
        self.check(paths, reference, average)
        self.check([path.parent for path in paths], reference, average)

    def test_all_formats_together(self, tmp_path, reference, average):
        (tmp_path / "folder").mkdir()
        paths = [tmp_path / "a.pth", tmp_path / "folder", tmp_path / "c.safetensors"]
        first, second, third = reference[0]
        torch.save(as_tensors(first), paths[0])
        write_checkpoint(paths[1] / "model.safetensors", second, None)
        wrapped = {f"module.{name}": array for name, array in third.items()}
        write_checkpoint(paths[2], wrapped, None)
        self.check(paths, reference, average)

    def test_averaged_models_of_torch(self, tmp_path, average):
        network = torch.nn.Linear(3, 2)
        paths = [tmp_path / "0.pth", tmp_path / "1.pth"]
        for k, path in enumerate(paths):
            torch.nn.init.constant_(network.weight, k)
            model = AveragedModel(network)
            model.update_parameters(network)
            torch.save(model.state_dict(), path)
        found = average(paths)
        assert sorted(found) == ["bias", "weight"]
        np.testing.assert_array_equal(found["weight"], np.full((2, 3), 0.5))

    def test_channels_last_tensors_of_several_blocks(self, tmp_path, average):
        tensors = [torch.randn(64, 64, 7, 7) for _ in range(2)]
        paths = [tmp_path / "0.pth", tmp_path / "1.pth"]
        for tensor, path in zip(tensors, paths, strict=True):
            torch.save({"w": tensor.to(memory_format=torch.channels_last)}, path)
        expected = ((tensors[0].double() + tensors[1].double()) / 2).float()
        np.testing.assert_array_equal(average(paths, n_threads=3)["w"], expected.numpy())


def test_torch_loads_the_average_strictly(tmp_path):
    model = timm.create_model("test_resnet", num_classes=5)
    paths = [tmp_path / "0.pth", tmp_path / "1.pth"]
    for path in paths:
        torch.save(model.state_dict(), path)
    average_checkpoints(paths, tmp_path / "out.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "out.safetensors")
    timm.create_model("test_resnet", num_classes=5).load_state_dict(loaded, strict=True)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


class TestOutput:
    def test_an_existing_output_needs_force_and_stays(self, checkpoints, states, tmp_path):
        paths, output = checkpoints(*states(2)), tmp_path / "out.safetensors"
        output.write_bytes(b"earlier")
        with pytest.raises(OutputError, match="it exists already"):
            average_checkpoints(paths, output)
        assert output.read_bytes() == b"earlier"
        average_checkpoints(paths, output, options=AverageOptions(force=True))
        assert len(output.read_bytes()) > 1000

    @pytest.mark.parametrize("how", ["itself", "link", "hard link", "other spelling"])
    def test_an_output_that_is_an_input_is_refused(self, checkpoints, states, tmp_path, how):
        paths = checkpoints(*states(2))
        content = paths[1].read_bytes()
        output = tmp_path / "out.safetensors"
        if how == "link":
            output.symlink_to(paths[1])
        elif how == "hard link":
            output.hardlink_to(paths[1])
        elif how == "itself":
            output = paths[1]
        else:
            output = paths[1].parent / ".." / paths[1].parent.name / paths[1].name
        with pytest.raises(OutputError, match="it is one of the checkpoints to average"):
            average_checkpoints(paths, output, options=AverageOptions(force=True))
        assert paths[1].read_bytes() == content

    def test_a_failure_leaves_the_earlier_output_and_nothing_else(self, checkpoints, tmp_path):
        paths = checkpoints({"w": np.ones(3), "x": np.ones(3)}, {"w": np.ones(3), "x": np.ones(3)})
        broken = paths[1].read_bytes()[:-8] + np.array([np.nan]).tobytes()
        paths[1].write_bytes(broken)
        output = tmp_path / "out" / "out.safetensors"
        output.parent.mkdir()
        output.write_bytes(b"earlier")
        with pytest.raises(CheckpointError, match="tensor 'x' holds NaN"):
            average_checkpoints(paths, output, options=AverageOptions(force=True))
        assert output.read_bytes() == b"earlier"
        assert os.listdir(output.parent) == ["out.safetensors"]

    def test_a_file_that_shrinks_meanwhile_never_becomes_an_output(self, tmp_path):
        paths = [tmp_path / f"{k}.pth" for k in range(2)]
        for k, path in enumerate(paths):
            torch.save({"w": torch.full((300_000,), float(k))}, path)
        options = AverageOptions(n_threads=1, advance=lambda _: os.truncate(paths[1], 1000))
        with pytest.raises(CheckpointError, match="1.pth: it became shorter while it was read"):
            average_checkpoints(paths, tmp_path / "out.safetensors", options=options)
        assert sorted(tmp_path.iterdir()) == paths

    def test_code_in_a_pickle_is_left_behind_and_not_run(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "it-ran"),)

        bad = tmp_path / "bad.pth"
        torch.save({"state_dict": {"w": torch.ones(3)}, "x": Payload()}, bad)
        average_checkpoints([bad], tmp_path / "out.safetensors")
        assert sorted(tmp_path.iterdir()) == [bad, tmp_path / "out.safetensors"]

    def test_every_input_is_closed(self, checkpoints, states, tmp_path):
        n_open = len(os.listdir("/dev/fd"))
        paths = checkpoints(*states(3))
        average_checkpoints(paths, tmp_path / "out.safetensors")
        with pytest.raises(CheckpointError):
            average_checkpoints([*paths, tmp_path / "gone"], tmp_path / "other.safetensors")
        assert len(os.listdir("/dev/fd")) == n_open

    def test_the_same_inputs_give_the_same_bytes_wherever_they_are(
        self, checkpoints, states, tmp_path
    ):
        written = states(3)
        outputs = []
        for folder in ("one", "two"):
            paths = checkpoints(*written, metadata=TRAINED, folder=folder)
            outputs.append(tmp_path / f"{folder}.safetensors")
            average_checkpoints(paths, outputs[-1])
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
        assert str(tmp_path).encode() not in outputs[0].read_bytes()


class TestMetadata:
    def test_sources_are_named_with_their_weights_and_digests(self, checkpoints, states, tmp_path):
        paths = checkpoints(*states(3), metadata=TRAINED)
        output = tmp_path / "out.safetensors"
        options = AverageOptions(weighting=Weights((1, 1, 2)), include_init=True)
        average_checkpoints(paths, output, options=options)
        metadata = read_metadata(output)
        assert metadata.kind == "average"
        assert metadata.model == MODEL
        assert metadata.preprocessing == PREPROCESSING
        assert metadata.training is None
        assert metadata.average.include_init
        assert metadata.average.weighting == "weights"
        sources = metadata.average.sources
        assert [source.name for source in sources] == [path.name for path in paths]
        assert [source.weight for source in sources] == [0.25, 0.25, 0.5]
        assert [source.digest for source in sources] == [content_digest(path) for path in paths]
        assert [source.n for source in sources] == [1, 1, 1]

    def test_an_average_of_averages_counts_what_they_stand_for(self, checkpoints, states, tmp_path):
        paths = checkpoints(*states(3))
        first = tmp_path / "first.safetensors"
        average_checkpoints(paths, first)
        average_checkpoints([first, paths[0]], tmp_path / "second.safetensors")
        sources = read_metadata(tmp_path / "second.safetensors").average.sources
        assert [source.n for source in sources] == [3, 1]

    @pytest.mark.parametrize(
        ("weighting", "name"),
        [(Uniform(), "uniform"), (Ema(0.9), "ema"), (Interpolate(0.3), "interpolate")],
    )
    def test_the_weighting_is_named(self, checkpoints, states, tmp_path, weighting, name):
        output = tmp_path / "out.safetensors"
        options = AverageOptions(weighting=weighting)
        average_checkpoints(checkpoints(*states(2)), output, options=options)
        average = read_metadata(output).average
        assert average.weighting == name
        assert sum(source.weight for source in average.sources) == pytest.approx(1)

    def test_statistics_are_stale_once_averaged(self, checkpoints, states, tmp_path):
        output = tmp_path / "out.safetensors"
        options = AverageOptions(force=True)
        paths = checkpoints(*states(2), metadata=TRAINED)
        average_checkpoints(paths, output, options=options)
        assert read_metadata(output).bn == BnInfo(state="stale")
        average_checkpoints(paths[:1], output, options=options)
        assert read_metadata(output).bn == BnInfo(state="trained")
        average_checkpoints(checkpoints(states(1)[0]), output, options=options)
        assert read_metadata(output).bn == BnInfo(state="unknown")
        without = checkpoints({"w": np.ones(2)}, {"w": np.ones(2)})
        average_checkpoints(without, output, options=options)
        assert read_metadata(output).bn == BnInfo(state="none")

    def test_tied_names_stay_tied(self, tmp_path):
        paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
        for k, path in enumerate(paths):
            write_checkpoint(path, {"embed": np.full(3, float(k))}, None, ties={"head": "embed"})
        average_checkpoints(paths, tmp_path / "out.safetensors")
        with open_checkpoint(tmp_path / "out.safetensors") as checkpoint:
            assert checkpoint.ties == {"head": "embed"}
            assert list(checkpoint.tensors) == ["embed"]

    def test_a_source_whose_name_is_no_text_can_be_read_back(self, tmp_path):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")
        try:
            write_checkpoint(path, {"w": np.ones(1)}, None)
        except OSError:
            pytest.skip("this file system allows no such names")
        average_checkpoints([path], tmp_path / "out.safetensors")
        (source,) = read_metadata(tmp_path / "out.safetensors").average.sources
        assert source.name == "\ufffd.safetensors"


def test_other_files_in_a_model_folder_stay(tmp_path):
    path, folder = tmp_path / "0.safetensors", tmp_path / "out"
    write_checkpoint(path, {"w": np.ones(1)}, TRAINED)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("mine")
    with pytest.raises(OutputError, match="config.json: it exists already"):
        average_checkpoints([path], f"{folder}/")
    average_checkpoints([path], f"{folder}/", options=AverageOptions(force=True))
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "README.md").read_text() == "mine"
