import json
import urllib.error

import pytest
import safetensors.torch
import timm
import timm.data
import torch
import torchvision
from torch import nn

from swa_tools.errors import ModelError
from swa_tools.models import create_model, has_batchnorm, replace_head

RESNET18 = "torchvision/resnet18:IMAGENET1K_V1"


@pytest.fixture
def published(monkeypatch):
    """Weights in the place of torchvision's download."""
    torch.manual_seed(1)
    state_dict = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: dict(state_dict)
    )
    return state_dict


@pytest.fixture
def local_dir(tmp_path):
    """A folder as timm's `save_for_hf` writes it, of a model with 7 classes and another stem."""
    torch.manual_seed(2)
    model = timm.create_model("test_resnet", num_classes=7, stem_width=24)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_resnet",
        "num_classes": 7,
        "model_args": {"stem_width": 24},
        "pretrained_cfg": {**model.pretrained_cfg, "num_classes": 7, "crop_pct": 0.8},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, model.state_dict()


def is_equal(module, state_dict):
    own = module.state_dict()
    return own.keys() == state_dict.keys() and all(
        torch.equal(own[name], state_dict[name]) for name in own
    )


def test_torchvision_model_has_its_weights_preprocessing():
    built = create_model(RESNET18)
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert isinstance(built.module, torchvision.models.ResNet)
    assert (built.info.name, built.info.num_classes) == (RESNET18, 1000)
    assert (built.info.head, built.info.classes, built.info.kwargs) == ("imagenet-1k", None, {})
    assert [built.preprocessing.image_size] == preset.crop_size
    assert [built.preprocessing.resize] == preset.resize_size
    assert built.preprocessing.crop == "center"
    assert built.preprocessing.interpolation == "bilinear"
    assert list(built.preprocessing.mean) == preset.mean
    assert list(built.preprocessing.std) == preset.std


def test_torchvision_name_without_weights_means_the_default_ones():
    assert create_model("torchvision/resnet50").preprocessing.resize == 232
    assert create_model("torchvision/resnet50:IMAGENET1K_V1").preprocessing.resize == 256


def test_timm_model_has_its_pretrained_cfg_preprocessing(tiny_model):
    built = create_model(tiny_model)
    config = timm.data.resolve_model_data_config(built.module)
    assert (built.info.name, built.info.num_classes) == (tiny_model, 1000)
    assert built.info.head == "imagenet-1k"
    assert (3, built.preprocessing.image_size, built.preprocessing.image_size) == config[
        "input_size"
    ]
    assert built.preprocessing.resize == int(160 / 0.95)
    assert built.preprocessing.mean == (0.5, 0.5, 0.5)


def test_tag_of_a_timm_model_decides_on_preprocessing():
    assert create_model("timm/resnet50.tv_in1k").preprocessing.interpolation == "bilinear"
    assert create_model("timm/resnet50.a1_in1k").preprocessing.interpolation == "bicubic"


def test_squash_and_border_come_from_the_pretrained_cfg(local_dir):
    folder, _ = local_dir
    config = json.loads((folder / "config.json").read_text())
    for mode in ("squash", "border"):
        config["pretrained_cfg"]["crop_mode"] = mode
        (folder / "config.json").write_text(json.dumps(config))
        assert create_model(f"local-dir:{folder}").preprocessing.crop == mode


def test_kwargs_reach_the_constructor_and_are_recorded(tiny_model):
    built = create_model(tiny_model, kwargs={"drop_rate": 0.25}, num_classes=5)
    assert built.module.drop_rate == 0.25
    assert built.info.kwargs == {"drop_rate": 0.25}
    assert (built.info.num_classes, built.info.head) == (5, "own")
    built = create_model("torchvision/densenet121", kwargs={"drop_rate": 0.25}, num_classes=5)
    assert built.module.features.denseblock1.denselayer1.drop_rate == 0.25
    assert (built.info.kwargs, built.info.head) == ({"drop_rate": 0.25}, "own")


def test_transformer_of_one_size_is_built_for_the_size_that_is_asked_for():
    built = create_model("timm/test_vit", image_size=64)
    assert built.preprocessing.image_size == 64
    assert built.info.kwargs == {"img_size": 64}
    assert built.module(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(
        ModelError, match="built for images of 224 pixels, not 64; give --model-kwargs"
    ):
        create_model("torchvision/vit_b_16", image_size=64)


def test_googlenet_is_built_again_as_its_pretrained_weights_want_it():
    built = create_model("torchvision/googlenet", num_classes=3)
    assert built.module.transform_input
    assert built.module.aux1 is None
    assert built.info.kwargs["transform_input"] is True


def test_pretrained_torchvision_weights_are_loaded(published):
    built = create_model(RESNET18, pretrained=True)
    assert is_equal(built.module, published)
    assert built.info.head == "imagenet-1k"


def test_pretrained_torchvision_weights_take_another_number_of_classes(published):
    built = create_model(RESNET18, pretrained=True, num_classes=4)
    own = built.module.state_dict()
    assert own["fc.weight"].shape == (4, 512)
    rest = {name: tensor for name, tensor in published.items() if not name.startswith("fc.")}
    assert all(torch.equal(own[name], tensor) for name, tensor in rest.items())
    assert (built.info.num_classes, built.info.head) == (4, "own")


def test_pretrained_timm_model_of_a_folder_is_loaded_and_named_without_it(local_dir):
    folder, state_dict = local_dir
    built = create_model(f"local-dir:{folder}", pretrained=True)
    assert is_equal(built.module, state_dict)
    assert built.info.name == "timm/test_resnet"
    assert built.info.kwargs == {"stem_width": 24}
    assert (built.info.num_classes, built.info.head) == (7, "own")
    assert built.preprocessing.resize == 200
    again = create_model(built.info.name, kwargs=built.info.kwargs, num_classes=7)
    assert again.module.state_dict().keys() == state_dict.keys()


def test_pretrained_timm_model_takes_another_number_of_classes(local_dir):
    folder, state_dict = local_dir
    built = create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    own = built.module.state_dict()
    assert own["fc.weight"].shape == (3, 96)
    assert torch.equal(own["conv1.0.weight"], state_dict["conv1.0.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "expected torchvision/NAME.*did you mean torchvision/resnet50, timm/resnet50"),
        (
            "torchvision/resnet5O",
            "unknown model 'torchvision/resnet5O'; did you mean torchvision/res",
        ),
        ("torchvision/", "unknown model 'torchvision/'"),
        ("timm/mobilnetv2_050", "unknown model.*did you mean timm/mobilenetv2_050"),
        ("timm/qqqqqqqq", "unknown model 'timm/qqqqqqqq'$"),
        ("torchvision/fasterrcnn_resnet50_fpn", "unknown model"),
        ("torchvision/resnet50:V3", "no weights 'V3' for .*; it has IMAGENET1K_V1, IMAGENET1K_V2"),
        ("timm/resnet50.nothing", "no weights 'nothing' for this model; it has .*tv_in1k"),
        ("local-dir:/nowhere", "cannot build this model: .*nowhere"),
    ],
)
def test_unknown_name_is_one_line_with_what_is_close(name, message):
    with pytest.raises(ModelError, match=message) as error:
        create_model(name)
    assert "\n" not in str(error.value)


def test_arguments_that_the_model_does_not_take_are_an_error(tiny_model):
    for name in (tiny_model, RESNET18):
        with pytest.raises(
            ModelError, match=r"cannot build this model with the arguments \{'colour': 1\}"
        ):
            create_model(name, kwargs={"colour": 1})
        with pytest.raises(ModelError, match="the number of classes is 0"):
            create_model(name, num_classes=0)
        with pytest.raises(ModelError, match="the image size is -1"):
            create_model(name, image_size=-1)


def test_model_whose_images_have_other_channels_is_an_error(local_dir):
    folder, _ = local_dir
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 32, 64]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="its input is 3 × 32 × 64 .*only square RGB images"):
        create_model(f"local-dir:{folder}")


def test_torchvision_weights_without_a_network_are_one_line(monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(
        ModelError, match="cannot load its pretrained weights .*--checkpoint FILE"
    ) as e:
        create_model(RESNET18, pretrained=True)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["timm/test_resnet", "hf-hub:timm/no-such-model"])
def test_timm_weights_without_a_network_are_one_line(monkeypatch, tmp_path, name):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelError, match="cannot load its pretrained weights .*--checkpoint FILE"
    ) as e:
        create_model(name, pretrained=True)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name", ["timm/test_resnet", "torchvision/mobilenet_v2", "timm/test_efficientnet"]
)
@pytest.mark.parametrize("n_classes", [3, 6])
def test_new_head_leaves_all_other_weights(name, n_classes):
    torch.manual_seed(0)
    built = create_model(name, num_classes=6)
    before = {key: tensor.clone() for key, tensor in built.module.state_dict().items()}
    classes = [f"class-{i}" for i in range(n_classes)]
    replaced = replace_head(built, classes)
    assert replaced.info.classes == tuple(classes)
    assert (replaced.info.num_classes, replaced.info.head) == (n_classes, "own")
    assert replaced.preprocessing == built.preprocessing
    changed = {
        key
        for key, tensor in replaced.module.state_dict().items()
        if not torch.equal(tensor, before[key])
    }
    (classifier,) = {key.rpartition(".")[0] for key in changed}
    weight = replaced.module.get_submodule(classifier).weight
    assert weight.shape[0] == n_classes
    assert weight.requires_grad
    assert is_equal(built.module, before)


def test_batchnorm_is_found_where_statistics_are_kept(tiny_model):
    assert has_batchnorm(create_model(tiny_model).module)
    assert not has_batchnorm(create_model("timm/test_vit").module)
    assert not has_batchnorm(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
    assert has_batchnorm(nn.Sequential(nn.SyncBatchNorm(3)))
