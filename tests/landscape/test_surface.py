import dataclasses
import math

import numpy as np
import pytest
import torch

from swa_tools.batchnorm import BnOptions, recompute
from swa_tools.checkpoints import open_checkpoint
from swa_tools.data import PassOptions, evaluation_loader, map_to_outputs, open_images, subset
from swa_tools.distributed import single_process
from swa_tools.errors import SwaToolsError
from swa_tools.evaluation import evaluate
from swa_tools.landscape.geometry import own_tensors, parameter_names
from swa_tools.models import load_checkpoint


def score(survey, path, *, allow_overflow=False, change=None):
    surface = survey.open_surface(path)
    with open_checkpoint(path) as checkpoint:
        decayed = survey.decayed(checkpoint, parameter_names([checkpoint]))
        tensors = dict(own_tensors(checkpoint))
        if change is not None:
            change(tensors)
        return surface.score(tensors.items(), decayed=decayed, allow_overflow=allow_overflow)


def reference(path, survey, *, bn_samples=9):
    """The scores by the library calls behind `update-bn` and `evaluate`."""
    built, _ = load_checkpoint(path)
    module = built.module.to(memory_format=torch.channels_last)
    options, context = survey.options, single_process("cpu")
    if bn_samples:
        recompute(
            [module],
            map_to_outputs(survey.train, built.info),
            preprocessing=built.preprocessing,
            options=BnOptions(n_samples=bn_samples, batch_size=4, workers=0),
            context=context,
        )
    scores = {}
    for name, images, n in (
        ("train", survey.train, options.train_samples),
        ("val", survey.val, options.val_samples),
    ):
        chosen = subset(map_to_outputs(images, built.info), n, seed=0)
        loader = evaluation_loader(
            chosen, built.preprocessing, options=PassOptions(device="cpu", batch_size=4, workers=0)
        )
        scores[name] = evaluate({"it": module}, loader).scores["it"]
    return scores, module


def test_a_point_is_what_update_bn_and_evaluate_say_of_it(captures, survey):
    found = score(survey(), captures[0])
    scores, module = reference(captures[0], survey())
    assert found.train_loss == scores["train"].nll
    assert found.train_error == 100 - scores["train"].top1
    assert found.test_loss == scores["val"].nll
    assert found.test_error == 100 - scores["val"].top1
    assert found.is_correct.sum() == scores["val"].n_correct
    squares = sum(float(p.detach().double().square().sum()) for p in module.parameters())
    assert found.l2 == pytest.approx(1e-4 / 2 * squares, rel=1e-12)


def test_vectors_may_be_left_out_of_the_l2_term(captures, survey):
    found = score(survey(no_decay_norm_bias=True, weight_decay=0.5), captures[0])
    module = load_checkpoint(captures[0])[0].module
    matrices = [p for p in module.parameters() if p.ndim > 1]
    squares = sum(float(p.detach().double().square().sum()) for p in matrices)
    assert found.l2 == pytest.approx(0.5 / 2 * squares, rel=1e-12)


def test_without_bn_samples_the_statistics_stay(captures, survey):
    found = score(survey(bn_samples=0), captures[0])
    scores, _ = reference(captures[0], survey(), bn_samples=0)
    assert found.test_loss == scores["val"].nll


def test_images_in_memory_give_the_same_numbers(captures, survey):
    held = survey(cache_images=True).open_surface(captures[0])
    read = survey(cache_images=False).open_surface(captures[0])
    for _ in range(2):
        results = []
        for surface in (held, read):
            with open_checkpoint(captures[1]) as checkpoint:
                results.append(
                    surface.score(
                        own_tensors(checkpoint), decayed=frozenset(), allow_overflow=False
                    )
                )
        assert results[0].train_loss == results[1].train_loss
        assert results[0].test_loss == results[1].test_loss


def test_images_are_decoded_once_when_they_are_held(captures, survey, monkeypatch):
    from PIL import Image

    opened = []
    original = Image.open
    monkeypatch.setattr(
        Image, "open", lambda *args, **kw: opened.append(1) or original(*args, **kw)
    )
    surface = survey(cache_images=True).open_surface(captures[0])
    for path in captures[:3]:
        with open_checkpoint(path) as checkpoint:
            surface.score(own_tensors(checkpoint), decayed=frozenset(), allow_overflow=False)
    assert len(opened) == surface.n_images == 9 + 6 + 12


def test_images_are_held_where_they_fit(captures, survey, monkeypatch):
    monkeypatch.setattr("swa_tools.landscape.surface.free_bytes", lambda _: 10**9)
    assert survey().open_surface(captures[0]).is_cached
    monkeypatch.setattr("swa_tools.landscape.surface.free_bytes", lambda _: 10**4)
    assert not survey().open_surface(captures[0]).is_cached


def test_free_memory_is_known(captures):
    from swa_tools.landscape.surface import free_bytes

    assert free_bytes(torch.device("cpu")) > 0


def blow_up(tensors):
    for name in list(tensors):
        if name.endswith("weight"):
            tensors[name] = np.full_like(tensors[name], math.inf)


def test_a_point_where_the_network_overflows_has_no_value(captures, survey):
    found = score(survey(), captures[0], allow_overflow=True, change=blow_up)
    assert math.isnan(found.test_error)
    assert not found.is_correct.any()
    assert len(found.is_correct) == 12


def test_a_checkpoint_that_overflows_is_an_error(captures, survey):
    with pytest.raises(SwaToolsError, match="NaN|finite"):
        score(survey(), captures[0], change=blow_up)


def test_points_do_not_depend_on_what_was_scored_before(captures, survey):
    surface = survey(bn_samples=0).open_surface(captures[0])

    def of(path):
        with open_checkpoint(path) as checkpoint:
            found = surface.score(
                own_tensors(checkpoint), decayed=frozenset(), allow_overflow=False
            )
        return found.test_loss

    first = of(captures[0])
    assert of(captures[1]) != first
    assert of(captures[0]) == first


def test_images_are_described_with_their_digests(captures, survey, image_folder):
    described = survey().open_surface(captures[0]).describe()
    assert described["images"]["val"]["n_samples"] == 12
    assert described["images"]["bn"]["n_samples"] == 9
    val = open_images(image_folder / "val")
    assert described["images"]["val"]["digest"] == val.digest()
    assert described["images_in_all"] == {"train": 24, "val": 12}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_scores_of_the_cpu(captures, survey):
    alone = survey(amp="off")
    on_gpu = dataclasses.replace(alone, context=single_process("cuda"))
    one, other = score(alone, captures[0]), score(on_gpu, captures[0])
    assert other.train_loss == pytest.approx(one.train_loss, rel=1e-3)
    assert other.test_error == pytest.approx(one.test_error, abs=10)
    assert other.l2 == one.l2


@pytest.mark.real_data
def test_ends_of_a_real_segment_are_what_a_plain_loop_counts(real_data, tmp_path):
    import timm
    from safetensors.torch import load_file

    from swa_tools.landscape.options import SurfaceOptions
    from swa_tools.landscape.segment import SegmentOptions, measure_segment
    from swa_tools.landscape.survey import Survey
    from swa_tools.measurements import read_numbers

    name, size = "mobilenetv2_050", 96
    ends = [real_data / "weights" / f"{name}-imagenette-e{n}.safetensors" for n in (20, 15)]
    train, val = (open_images(real_data / "imagenette" / split) for split in ("train", "val"))
    options = {"model": f"timm/{name}", "image_size": size, "bn_samples": 0}
    survey = Survey(
        output=tmp_path / "segment.npz",
        train=train,
        val=val,
        options=SurfaceOptions(**options, train_samples=20, val_samples=60, workers=0),
        context=single_process("cpu"),
    )
    measure_segment(*ends, survey=survey, options=SegmentOptions(n_points=1, beyond=0))
    found = read_numbers(survey.output).arrays["test_error"]
    model = timm.create_model(name, num_classes=10)
    config = {**timm.data.resolve_model_data_config(model), "input_size": (3, size, size)}
    transform = timm.data.create_transform(**config, is_training=False)
    chosen = subset(val, 60, seed=0)
    images = torch.stack([transform(chosen.open(path).convert("RGB")) for path in chosen.paths])
    for position, end in enumerate(ends):
        model.load_state_dict(load_file(end))
        with torch.no_grad():
            predictions = model.eval()(images).argmax(dim=1)
        wrong = int((predictions != torch.tensor(chosen.targets)).sum())
        assert found[position] == pytest.approx(100 * wrong / 60)
