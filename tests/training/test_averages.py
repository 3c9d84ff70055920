import pytest
import torch
from torch import nn

from swa_tools.averaging import average_checkpoints
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, read_metadata
from swa_tools.errors import CheckpointError, TrainingError
from swa_tools.models import load_state_dict, save_state_dict
from swa_tools.records import read_records
from swa_tools.training.averages import ExponentialAverage, OnlineAverage
from swa_tools.training.loop import finetune


def test_average_follows_the_formula_for_weights_and_running_statistics():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = ExponentialAverage(module, decay=0.9)
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for _ in range(5):
        with torch.no_grad():
            module(torch.randn(8, 3))
            for parameter in module.parameters():
                parameter += torch.randn_like(parameter)
        average.update()
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * tensor
            else:
                expected[name] = tensor.clone()
    for name, tensor in average.module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_weights_that_are_used_twice_are_averaged_once():
    layer = nn.Linear(2, 2)
    module = nn.Sequential(layer, layer)
    average = ExponentialAverage(module, decay=0.5)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update()
    torch.testing.assert_close(average.module[1].weight.detach(), before + 0.5)


def test_the_average_needs_no_gradients_and_stays_in_evaluation_mode():
    average = ExponentialAverage(nn.Linear(2, 2).train(), decay=0.5)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())


def test_online_average_is_the_offline_one_bit_for_bit(tmp_path):
    random = torch.Generator().manual_seed(0)
    online, paths = OnlineAverage(), []
    for number in range(7):
        state = {
            "weight": torch.randn((40, 30), generator=random) * 10 ** (number - 3),
            "half": torch.randn((9,), generator=random).half(),
            "bn.num_batches_tracked": torch.tensor(number),
        }
        path = tmp_path / f"{number}.safetensors"
        save_state_dict(
            path,
            state,
            CheckpointMetadata(kind="checkpoint", bn=BnInfo(state="none"), swa_tools="0"),
        )
        online.add(state, name=path.name, digest="xxh3-128:" + "0" * 32)
        paths.append(path)
    average_checkpoints(paths, tmp_path / "average.safetensors")
    offline = load_state_dict(tmp_path / "average.safetensors")
    torch.testing.assert_close(online.weights(), offline, rtol=0, atol=0)
    assert online.info().sources[3].weight == 1 / 7


def test_state_survives_saving_and_loading():
    online = OnlineAverage()
    online.add({"w": torch.tensor([1.0])}, name="a", digest="x")
    other = OnlineAverage()
    other.load_state_dict(online.state_dict())
    for average in (online, other):
        average.add({"w": torch.tensor([4.0])}, name="b", digest="y")
    assert other.n_averaged == 2
    assert other.weights()["w"].item() == online.weights()["w"].item() == 2.5
    assert other.info() == online.info()


def test_the_state_of_a_version_that_kept_means_is_refused():
    old = {"tensors": {"w": torch.tensor([1.0], dtype=torch.float64)}, "sources": [("a", "x")]}
    with pytest.raises(TrainingError, match="older version of swa-tools"):
        OnlineAverage().load_state_dict(old)


def test_an_integer_tensor_that_changed_is_an_error_that_names_it_and_the_capture():
    online = OnlineAverage()
    online.add({"index": torch.tensor([1, 2])}, name="cycle-001.safetensors", digest="x")
    with pytest.raises(CheckpointError, match="^cycle-002.safetensors: tensor 'index' .*cycle-001"):
        online.add({"index": torch.tensor([1, 3])}, name="cycle-002.safetensors", digest="y")


def test_a_run_keeps_recomputes_and_scores_its_average_and_needs_no_captures(options):
    result = finetune(options(swa_online=True, swa_every=1, keep_checkpoints=0, epochs=3))
    assert result.captures == ()
    assert list((result.run / "checkpoints").iterdir()) == []
    metadata = read_metadata(result.run / "swa.safetensors")
    assert (metadata.kind, metadata.bn.state, metadata.bn.n_samples) == ("average", "updated", 24)
    assert [source.name for source in metadata.average.sources] == [
        f"cycle-00{number}.safetensors" for number in (1, 2, 3)
    ]
    averages = [r for r in read_records(result.run / "metrics.jsonl") if r.kind == "average"]
    assert [(r.step, r.bn) for r in averages] == [(6, "updated"), (12, "updated"), (18, "updated")]


def test_the_average_of_a_run_is_that_of_its_captures(options, tmp_path):
    result = finetune(options(swa_online=True, epochs=3))
    average_checkpoints(result.captures, tmp_path / "average.safetensors")
    offline = load_state_dict(tmp_path / "average.safetensors")
    for name, tensor in load_state_dict(result.run / "swa.safetensors").items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, offline[name], rtol=0, atol=0)


def test_only_the_newest_captures_stay(options):
    result = finetune(options(keep_checkpoints=2, epochs=3, ema=0.9))
    names = ["cycle-002.safetensors", "cycle-003.safetensors"]
    for folder in ("checkpoints", "ema"):
        assert sorted(path.name for path in (result.run / folder).iterdir()) == names
    assert [path.name for path in result.captures] == names
