import copy
import dataclasses

import pytest
import safetensors.torch
import torch
from torch import nn

from swa_tools.batchnorm import BnOptions, recompute, update_bn, update_checkpoint
from swa_tools.checkpoints import BnInfo, read_metadata
from swa_tools.data import (
    PassOptions,
    evaluation_view,
    open_images,
    statistics_loader,
    subset,
    training_view,
)
from swa_tools.distributed import single_process
from swa_tools.errors import DataError, OutputError, SwaToolsError
from swa_tools.models import ModelChoice, create_model, load_checkpoint

CPU = single_process("cpu")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def images(image_folder):
    return open_images(image_folder / "train")


@pytest.fixture
def built(tiny_network):
    return dataclasses.replace(tiny_network, module=copy.deepcopy(tiny_network.module))


@pytest.fixture
def average(tiny_checkpoint, tmp_path):
    """An average whose statistics are stale."""
    return tiny_checkpoint(tmp_path / "average.safetensors", kind="average", bn="stale")


def options(**changes):
    return BnOptions(**{"batch_size": 5, "workers": 0, "channels_last": False, **changes})


def statistics_of(module):
    return {
        name: tensor.clone()
        for name, tensor in module.state_dict().items()
        if name.endswith(STATISTICS)
    }


@pytest.mark.parametrize("view", ["training", "evaluation"])
def test_it_is_update_bn_over_the_statistics_loader(built, images, view):
    result = recompute(
        [built.module],
        images,
        preprocessing=built.preprocessing,
        options=options(view=view, seed=3, n_samples=16),
        context=CPU,
    )
    found = statistics_of(built.module)
    chosen = subset(images, 16, seed=3)
    views = {
        "training": training_view(built.preprocessing),
        "evaluation": evaluation_view(built.preprocessing),
    }
    loader = statistics_loader(
        chosen,
        built.preprocessing,
        seed=3,
        view=views[view],
        options=PassOptions(device="cpu", batch_size=5, workers=0, channels_last=False),
    )
    # 16 images in batches of 5: the last of one joins the one before.
    assert [len(batch.images) for batch in loader] == [5, 5, 6]
    update_bn(built.module, loader)
    for name, expected in statistics_of(built.module).items():
        assert found[name].equal(expected), name
    assert result.bn == BnInfo(
        state="updated",
        estimator="population",
        n_samples=16,
        batch_size=5,
        view=views[view],
        train_mode=False,
        seed=3,
        data_digest=chosen.digest(),
    )
    assert (result.reports[0].n_batches, result.n_skipped) == (3, 0)


def test_dropout_is_drawn_from_the_seed(images):
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4))
        preprocessing = create_model("timm/test_resnet", image_size=32).preprocessing
        torch.manual_seed(len(found))
        state = torch.get_rng_state()
        result = recompute(
            [module],
            images,
            preprocessing=preprocessing,
            options=options(train_mode=True, seed=seed),
            context=CPU,
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert (result.bn.train_mode, result.bn.seed) == (True, seed)
        found.append(statistics_of(module)["2.running_var"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_it_does_not_depend_on_the_workers(built, images):
    found = []
    for workers in (0, 2):
        recompute(
            [built.module],
            images,
            preprocessing=built.preprocessing,
            options=options(workers=workers),
            context=CPU,
        )
        found.append(statistics_of(built.module))
    for name, expected in found[0].items():
        assert found[1][name].equal(expected), name


def test_a_model_without_batchnorm_has_no_state(built, images):
    result = recompute(
        [nn.Conv2d(3, 3, 1)],
        images,
        preprocessing=built.preprocessing,
        options=options(),
        context=CPU,
    )
    assert result.bn == BnInfo(state="none")
    assert result.reports[0].notices() == [
        "there are no BatchNorm statistics to recompute: the images were not read"
    ]


def test_notices_name_what_was_left_alone():
    layers = [nn.BatchNorm2d(3, momentum=0.0), nn.InstanceNorm2d(3, track_running_stats=True)]
    report = update_bn(nn.Sequential(nn.BatchNorm2d(3), *layers), [torch.randn(4, 3, 2, 2)])
    assert report.notices() == [
        "1 frozen BatchNorm layers were left as they are",
        "1 layers keep statistics but are not BatchNorm and were left as they are: 2",
    ]


def test_a_file_keeps_everything_but_its_statistics(
    tiny_network, tiny_checkpoint, images, tmp_path
):
    halves = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in tiny_network.module.state_dict().items()
    }
    path, output = tmp_path / "average.safetensors", tmp_path / "swa.safetensors"
    tiny_checkpoint(path, halves, kind="average", bn="stale")
    result = update_checkpoint(path, output, images, options=options(), context=CPU)
    before, after = safetensors.torch.load_file(path), safetensors.torch.load_file(output)
    loaded, metadata = load_checkpoint(path)
    recompute(
        [loaded.module],
        images,
        preprocessing=loaded.preprocessing,
        options=options(),
        context=CPU,
    )
    measured = statistics_of(loaded.module)
    assert sorted(after) == sorted(before)
    for name, tensor in after.items():
        assert tensor.equal(measured[name] if name in measured else before[name]), name
    # Half precision would round the statistics once more.
    assert after["bn1.running_var"].dtype == torch.float32
    assert after["conv1.0.weight"].dtype == torch.bfloat16
    assert read_metadata(output) == dataclasses.replace(metadata, bn=result.bn)


def test_the_same_input_gives_the_same_bytes(average, images, tmp_path):
    outputs = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for output in outputs:
        update_checkpoint(average, output, images, options=options(), context=CPU)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_file_of_another_tool_gets_a_description(built, images, tiny_model, tmp_path):
    path, output = tmp_path / "theirs.pth", tmp_path / "swa.safetensors"
    torch.save({"state_dict": built.module.state_dict()}, path)
    update_checkpoint(
        path,
        output,
        images,
        options=options(),
        context=CPU,
        choice=ModelChoice(model=tiny_model, image_size=32),
    )
    metadata = read_metadata(output)
    assert (metadata.kind, metadata.bn.state) == ("checkpoint", "updated")
    assert metadata.model.name == tiny_model
    assert metadata.preprocessing.image_size == 32
    assert load_checkpoint(output)[0].info.num_classes == 3


def test_an_output_that_exists_is_refused_before_the_pass(average, images):
    before = average.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        update_checkpoint(average, average, images, options=options(), context=CPU)
    assert average.read_bytes() == before
    update_checkpoint(average, average, images, options=options(), context=CPU, force=True)
    assert read_metadata(average).bn.state == "updated"


def test_images_that_cannot_be_read_leave_no_output(average, images, tmp_path):
    output = tmp_path / "swa.safetensors"
    broken = dataclasses.replace(images, root=tmp_path, paths=("blue/none.JPEG", *images.paths[1:]))
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue/none.JPEG").write_bytes(b"no image")

    def open_one(name):
        from PIL import Image

        return Image.open((tmp_path if name == "blue/none.JPEG" else images.root) / name)

    broken = dataclasses.replace(broken, open=open_one)
    with pytest.raises(DataError, match=r"none\.JPEG"):
        update_checkpoint(average, output, broken, options=options(), context=CPU)
    assert not output.exists()
    result = update_checkpoint(
        average, output, broken, options=options(skip_bad_images=True), context=CPU
    )
    assert (result.n_skipped, result.bn.n_samples) == (1, len(images) - 1)


def test_weights_that_are_not_finite_are_an_error_and_leave_no_output(
    built, tiny_checkpoint, images, tmp_path
):
    path, output = tmp_path / "average.safetensors", tmp_path / "swa.safetensors"
    with torch.no_grad():
        built.module.conv1[0].weight.fill_(torch.nan)
    tiny_checkpoint(path, built.module.state_dict(), kind="average", bn="stale")
    with pytest.raises(SwaToolsError, match=r"average\.safetensors: layer .* not finite"):
        update_checkpoint(path, output, images, options=options(), context=CPU)
    assert not output.exists()
