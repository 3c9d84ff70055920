import dataclasses

import pytest
import torch
import torchvision

from swa_tools.checkpoints import BnInfo, CheckpointMetadata
from swa_tools.errors import CheckpointError, ModelError
from swa_tools.models import ModelChoice, create_model, load_checkpoint, save_state_dict


@pytest.fixture
def saved(tmp_path, tiny_model):
    """A checkpoint with metadata, and the model that it was made from."""
    built = create_model(tiny_model, num_classes=3, kwargs={"stem_width": 24}, image_size=48)
    info = dataclasses.replace(built.info, classes=("a", "b", "c"))
    preprocessing = dataclasses.replace(built.preprocessing, crop="squash")
    metadata = CheckpointMetadata(
        kind="checkpoint",
        model=info,
        preprocessing=preprocessing,
        bn=BnInfo(state="trained"),
        swa_tools="0.1.0",
    )
    path = tmp_path / "saved.safetensors"
    save_state_dict(path, built.module.state_dict(), metadata)
    return path, built, metadata


def is_equal(module, other):
    own, theirs = module.state_dict(), other.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[k], theirs[k]) for k in own)


def test_checkpoint_with_metadata_needs_no_model(saved):
    path, built, metadata = saved
    loaded, found = load_checkpoint(path)
    assert found == metadata
    assert loaded.info == metadata.model
    assert loaded.preprocessing == metadata.preprocessing
    assert is_equal(loaded.module, built.module)


def test_image_size_goes_before_the_recorded_one(saved):
    path, _, metadata = saved
    loaded, _ = load_checkpoint(path, ModelChoice(image_size=96))
    assert loaded.preprocessing == dataclasses.replace(
        metadata.preprocessing, image_size=96, resize=2 * metadata.preprocessing.resize
    )


def test_model_that_is_given_although_recorded_must_be_the_same(saved, tiny_model):
    path, _, _ = saved
    load_checkpoint(
        path, ModelChoice(model=tiny_model, num_classes=3, model_kwargs={"stem_width": 24})
    )
    load_checkpoint(path, ModelChoice(model=f"{tiny_model}.r160_in1k"))
    for options, message in (
        ({"model": "timm/resnet18"}, "says model timm/test_resnet, but timm/resnet18 was given"),
        ({"num_classes": 4}, "says number of classes 3, but 4 was given"),
        ({"model_kwargs": {"stem_width": 8}}, "says model kwargs .*24.*, but .*8.* was given"),
    ):
        with pytest.raises(ModelError, match=message):
            load_checkpoint(path, ModelChoice(**options))


@pytest.mark.parametrize(("n_outputs", "num_classes"), [(5, None), (5, 5), (1000, None)])
def test_number_of_classes_is_read_off_somebody_elses_file(
    tmp_path, tiny_model, n_outputs, num_classes
):
    built = create_model(tiny_model, num_classes=n_outputs)
    torch.save({"state_dict": built.module.state_dict()}, tmp_path / "file.pth")
    loaded, metadata = load_checkpoint(
        tmp_path / "file.pth", ModelChoice(model=tiny_model, num_classes=num_classes)
    )
    assert metadata is None
    assert loaded.info == built.info
    assert is_equal(loaded.module, built.module)


def test_torchvision_checkpoint_of_distributed_training_is_loaded(tmp_path):
    module = torchvision.models.mobilenet_v2(num_classes=7)
    state_dict = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"model": state_dict, "epoch": 1}, tmp_path / "model_1.pth")
    loaded, _ = load_checkpoint(
        tmp_path / "model_1.pth", ModelChoice(model="torchvision/mobilenet_v2")
    )
    assert loaded.info.num_classes == 7
    assert is_equal(loaded.module, module)


def test_entry_chooses_among_the_weights_of_a_file(tmp_path, tiny_model):
    raw, ema = (create_model(tiny_model).module for _ in range(2))
    torch.save(
        {"state_dict": raw.state_dict(), "state_dict_ema": ema.state_dict()}, tmp_path / "a.pth"
    )
    loaded, _ = load_checkpoint(
        tmp_path / "a.pth", ModelChoice(model=tiny_model, entry="state_dict_ema")
    )
    assert is_equal(loaded.module, ema)


def test_weights_in_half_precision_are_loaded_in_float32(tmp_path, tiny_model):
    module = create_model(tiny_model).module
    halves = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }
    save_state_dict(tmp_path / "half.safetensors", halves, None)
    loaded, _ = load_checkpoint(tmp_path / "half.safetensors", ModelChoice(model=tiny_model))
    own = loaded.module.state_dict()
    assert all(
        torch.equal(own[name], tensor.to(own[name].dtype)) for name, tensor in halves.items()
    )


def test_file_that_does_not_say_its_model_is_an_error(tmp_path):
    save_state_dict(tmp_path / "a.safetensors", {"a": torch.ones(1)}, None)
    with pytest.raises(ModelError, match="does not say which model it belongs to.*--model"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_checkpoint_of_another_model_is_one_line(saved, tmp_path, tiny_model):
    module = create_model("timm/test_byobnet").module
    save_state_dict(tmp_path / "other.safetensors", module.state_dict(), None)
    with pytest.raises(ModelError, match=r"other.safetensors: these weights do not fit") as error:
        load_checkpoint(tmp_path / "other.safetensors", ModelChoice(model=tiny_model))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_missing_file_is_an_error(tmp_path, tiny_model):
    with pytest.raises(CheckpointError, match=r"nothing\.pth"):
        load_checkpoint(tmp_path / "nothing.pth", ModelChoice(model=tiny_model))
