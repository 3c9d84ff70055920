import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import swa_utils
from torch.utils.checkpoint import checkpoint

from swa_tools.batchnorm.update import update_bn, update_bn_many
from swa_tools.errors import ModelError, SwaToolsError

ESTIMATORS = ["population", "batch-mean", "sample-weighted"]


def batches(*sizes, shape=(3, 8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [5 + 3 * torch.randn(size, *shape, generator=generator) for size in sizes]


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(6, 4, 3, bias=False),
        nn.BatchNorm2d(4, momentum=0.01),
        nn.Flatten(),
        nn.LazyLinear(5),
        nn.BatchNorm1d(5, momentum=None),
    )
    return model.eval()


def ready(model=None):
    """The network, its lazy layer sized."""
    model = network() if model is None else model
    model(torch.zeros(2, 3, 8, 8))
    return model


def layers_of(model):
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    }


def inputs_of_layers(model, data):
    """What each BatchNorm layer receives per call when only these layers are in train mode."""
    inputs, handles = {name: [] for name in layers_of(model)}, []
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    for name, layer in layers_of(model).items():
        layer.train()
        handles.append(
            layer.register_forward_pre_hook(
                lambda _, args, name=name: inputs[name].append(args[0].double().clone())
            )
        )
    with torch.no_grad():
        for batch in data:
            model(batch)
    for handle in handles:
        handle.remove()
    model.eval()
    model.load_state_dict(state)
    return inputs


def values_per_channel(activations):
    return activations.transpose(0, 1).flatten(1).numpy()


def assert_population_of(inputs, model):
    for name, layer in layers_of(model).items():
        together = np.concatenate([values_per_channel(call) for call in inputs[name]], axis=1)
        np.testing.assert_allclose(layer.running_mean, together.mean(1), rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(layer.running_var, together.var(1), rtol=1e-5)
        assert layer.num_batches_tracked == len(inputs[name])


def assert_same_statistics(model, reference, *, rtol=1e-6):
    for (key, found), expected in zip(
        model.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            found, expected, rtol=rtol, atol=1e-6, msg=lambda m, k=key: k + m
        )


@pytest.mark.parametrize("last", [2, 5])
def test_population_is_numpy_on_the_concatenated_activations(last):
    model, data = ready(), batches(16, 16, last)
    inputs = inputs_of_layers(model, data)
    report = update_bn(model, data)
    assert_population_of(inputs, model)
    assert (report.n_layers, report.n_frozen) == (3, 0)
    assert (report.n_samples, report.n_batches) == (32 + last, 3)
    assert report.uncalled == report.unsupported == ()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(3), (3,)),
        (nn.BatchNorm1d(3), (3, 7)),
        (nn.BatchNorm2d(3), (3, 4, 5)),
        (nn.BatchNorm3d(3), (3, 2, 4, 5)),
        (nn.SyncBatchNorm(3), (3, 4, 5)),
        (nn.SyncBatchNorm(3, momentum=None), (3, 4, 5)),
        (timm.layers.BatchNormAct2d(3), (3, 4, 5)),
        (timm.layers.norm_act.SyncBatchNormAct(3), (3, 4, 5)),
        (nn.BatchNorm2d(3, affine=False, momentum=None), (3, 4, 5)),
    ],
    ids=lambda value: "".join(repr(value).split()),
)
def test_every_kind_of_layer_and_every_last_batch(layer, shape):
    # A last batch of one image has no variance where the image is one value per channel.
    for last in (2, 5) if shape == (3,) else (1, 2, 5):
        data = batches(8, 8, last, shape=shape)
        model = nn.Sequential(layer)
        update_bn(model, data)
        assert_population_of({"0": [batch.double() for batch in data]}, model)


def test_a_large_offset_does_not_cost_the_variance():
    data = [1000 + batch for batch in batches(32, 32, 7)]
    model = nn.Sequential(nn.BatchNorm2d(3))
    update_bn(model, data)
    together = values_per_channel(torch.cat(data).double())
    np.testing.assert_allclose(model[0].running_var, together.var(1), rtol=1e-5)


@pytest.mark.parametrize("last", [2, 5])
def test_batch_mean_is_update_bn_of_torch(last):
    data = batches(16, 16, last)
    model, reference = ready(), ready()
    # torch's own runs the whole model in train mode.
    reference[3].p = 0.0
    swa_utils.update_bn(data, reference)
    update_bn(model, data, estimator="batch-mean")
    assert_same_statistics(model, reference)


def bn_update_of_the_authors(loader, model):
    """As in utils.py of github.com/timgaripov/swa: momentum b/(n+b), everything in train mode."""
    model.train()
    momenta = {layer: layer.momentum for layer in layers_of(model).values()}
    for layer in momenta:
        layer.running_mean.zero_()
        layer.running_var.fill_(1)
    n = 0
    for batch in loader:
        for layer in momenta:
            layer.momentum = len(batch) / (n + len(batch))
        with torch.no_grad():
            model(batch)
        n += len(batch)
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    model.eval()


@pytest.mark.parametrize("last", [2, 5])
def test_sample_weighted_in_train_mode_is_bn_update_of_the_authors(last):
    data = batches(16, 16, last)
    model, reference = ready(), ready()
    for layer in (*layers_of(model).values(), *layers_of(reference).values()):
        layer.num_batches_tracked.zero_()
    torch.manual_seed(3)
    bn_update_of_the_authors(data, reference)
    torch.manual_seed(3)
    update_bn(model, data, estimator="sample-weighted", train_mode=True)
    assert model[3].p == 0.5
    assert_same_statistics(model, reference)


def test_dropout_stays_off_unless_the_whole_model_trains():
    class Recorder(nn.Module):
        def forward(self, images):
            modes.append(self.training)
            return images

    model, modes = nn.Sequential(Recorder(), nn.BatchNorm2d(3)), []
    update_bn(model.train(), batches(4))
    update_bn(model.eval(), batches(4), train_mode=True)
    assert modes == [False, True]


def test_stochastic_depth_inside_a_batchnorm_layer_stays_off():
    layer = timm.layers.BatchNormAct2d(3, drop_layer=lambda: nn.Dropout(0.5))
    seen = []
    layer.drop.register_forward_hook(lambda module, *_: seen.append(module.training))
    update_bn(nn.Sequential(layer), batches(4))
    assert seen == [False]


def test_a_layer_used_twice_counts_every_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.BatchNorm2d(3)

        def forward(self, images):
            return self.second(2 * self.first(images) + 1)

    model, data = Twice(), batches(8, 3)
    inputs = inputs_of_layers(model, data)
    assert len(inputs["first"]) == 4
    report = update_bn(model, data)
    assert report.n_layers == 1
    assert_population_of(inputs, model)
    reference = Twice()
    swa_utils.update_bn(data, reference)
    update_bn(model, data, estimator="batch-mean")
    assert_same_statistics(model, reference)


def test_layers_without_running_statistics_are_left_alone():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    report = update_bn(model, batches(8, 8))
    assert report.n_layers == 1
    assert model[0].running_mean is None


def test_frozen_layers_stay_as_they_are_and_are_counted():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=0.0), nn.BatchNorm2d(3))
    model.train()
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outputs = []
    model[2].register_forward_hook(lambda module, *_: outputs.append(module.training))
    report = update_bn(model, batches(8), train_mode=True)
    assert (report.n_layers, report.n_frozen) == (1, 2)
    assert outputs == [False]
    for name in ("1", "2"):
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            assert model.state_dict()[f"{name}.{key}"].equal(before[f"{name}.{key}"])
    assert not model[0].running_mean.equal(before["0.running_mean"])


@pytest.mark.parametrize("train_mode", [False, True])
def test_other_layers_with_statistics_are_named_and_left_alone(train_mode):
    others = [
        timm.layers.FrozenBatchNormAct2d(3),
        timm.layers.EvoNorm2dB0(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
    ]
    model = nn.Sequential(nn.BatchNorm2d(3), *others)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = update_bn(model, batches(8), train_mode=train_mode)
    assert report.unsupported == ("1", "2", "3")
    for key, value in model.state_dict().items():
        assert key.startswith("0.") or value.equal(before[key])


@pytest.mark.parametrize(
    "model",
    [nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3, momentum=0.0))],
    ids=["no BatchNorm", "all frozen"],
)
def test_without_a_layer_to_recompute_there_is_no_pass(model):
    def never():
        raise AssertionError("the batches were touched")
        yield

    report = update_bn(model, never())
    assert (report.n_layers, report.n_samples, report.n_batches) == (0, 0, 0)


def test_layers_that_the_pass_never_reaches_keep_their_statistics():
    class WithAuxiliaryHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.auxiliary = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, images):
            return self.main(images), self.auxiliary(images) if self.training else None

    model = WithAuxiliaryHead()
    model.auxiliary.running_mean.fill_(7.0)
    report = update_bn(model, batches(4))
    assert report.uncalled == ("auxiliary",)
    assert report.n_layers == 1
    assert model.auxiliary.running_mean.tolist() == [7.0] * 3
    report = update_bn(model, batches(4), train_mode=True)
    assert (report.n_layers, report.uncalled) == (2, ())


def test_what_stood_in_the_statistics_does_not_matter():
    model, reference = ready(), ready()
    for layer in layers_of(model).values():
        layer.running_mean.fill_(torch.nan)
        layer.running_var.fill_(torch.inf)
    update_bn(model, batches(8, 5))
    update_bn(reference, batches(8, 5))
    assert_same_statistics(model, reference, rtol=0)


def fingerprint(model):
    """Everything that must be as before."""
    return [
        (
            name,
            module.training,
            getattr(module, "momentum", None),
            sorted(vars(module)),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in model.named_modules()
    ]


def model_in_mixed_modes():
    model = ready()
    model.append(nn.SyncBatchNorm(5))
    model.train()
    model[3].eval()
    return model


def test_modes_momenta_and_hooks_are_restored():
    model = model_in_mixed_modes()
    before = fingerprint(model)
    update_bn(model, batches(8, 5))
    assert fingerprint(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_restored_after_an_exception(error):
    def failing():
        yield from batches(8, 8)
        raise error

    model = model_in_mixed_modes()
    model[1].running_mean.fill_(7.0)
    before, state = fingerprint(model), {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(error):
        update_bn(model, failing())
    assert fingerprint(model) == before
    for key, value in model.state_dict().items():
        assert value.equal(state[key]), key


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no images"),
        ([torch.full((4, 3, 8, 8), torch.nan)], "layer 1: its new running_mean is not finite"),
        ([torch.zeros(1, 3, 8, 8)], "layer 8: a batch of 1 gives one value per channel"),
    ],
    ids=["no batches", "NaN", "one value"],
)
def test_bad_batches_are_one_line_and_change_nothing(data, message):
    model = ready()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SwaToolsError, match=message):
        update_bn(model, data)
    for key, value in model.state_dict().items():
        assert value.equal(state[key]), key


def test_a_lazy_layer_without_a_size_is_named():
    with pytest.raises(ModelError, match="layer 0 has no size yet"):
        update_bn(nn.Sequential(nn.LazyBatchNorm2d()), batches(4))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_does_not_count_twice(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))

        def forward(self, images):
            return checkpoint(self.inner, images, use_reentrant=use_reentrant)

    torch.manual_seed(0)
    model, data = Checkpointed(), batches(8, 5)
    inputs = inputs_of_layers(model, data)
    update_bn(model, data)
    assert_population_of(inputs, model)


def test_many_models_in_one_pass_are_each_as_alone():
    together, alone = [ready(network(seed)) for seed in (0, 1)], [ready(network(1)), ready()]
    together.insert(1, nn.Conv2d(3, 3, 1))
    counted = []
    reports = update_bn_many(together, iter(batches(8, 5)), advance=counted.append)
    update_bn(alone[0], batches(8, 5))
    update_bn(alone[1], batches(8, 5))
    assert_same_statistics(together[2], alone[0], rtol=0)
    assert_same_statistics(together[0], alone[1], rtol=0)
    assert [report.n_layers for report in reports] == [3, 0, 3]
    assert [report.n_samples for report in reports] == [13, 0, 13]
    assert counted == [8, 5]


def test_tuples_channels_last_and_wrapped_models():
    reference = ready()
    update_bn(reference, batches(8, 5))
    model = ready()
    update_bn(model, [(batch, torch.zeros(len(batch))) for batch in batches(8, 5)])
    assert_same_statistics(model, reference, rtol=0)
    model = ready().to(memory_format=torch.channels_last)
    update_bn(model, [batch.to(memory_format=torch.channels_last) for batch in batches(8, 5)])
    assert_same_statistics(model, reference, rtol=1e-5)
    model = ready()
    compiled = torch.compile(model, backend="eager")
    compiled(torch.zeros(2, 3, 8, 8))
    update_bn(nn.DataParallel(compiled), batches(8, 5))
    assert_same_statistics(model, reference, rtol=0)


def test_layers_out_of_reach_of_the_hooks_are_an_error():
    class PastTheLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(3)

        def forward(self, images):
            return F.batch_norm(images, self.bn.running_mean, self.bn.running_var)

    with pytest.raises(SwaToolsError, match="reached no BatchNorm layer"):
        update_bn(PastTheLayer(), batches(4))


def test_mixed_precision_statistics_are_close_to_those_of_full_precision():
    model, reference = ready(), ready()
    update_bn(model, batches(8, 5), amp=torch.bfloat16)
    update_bn(reference, batches(8, 5))
    for key, value in model.state_dict().items():
        assert value.dtype == reference.state_dict()[key].dtype
        torch.testing.assert_close(value, reference.state_dict()[key], rtol=0.05, atol=0.05)


def test_a_real_network_agrees_with_numpy_and_with_torch():
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=4)
    data = batches(6, 6, 3, shape=(3, 32, 32))
    inputs = inputs_of_layers(model, data)
    update_bn(model, data)
    assert_population_of(inputs, model)
    reference = timm.create_model("resnet18", num_classes=4)
    reference.load_state_dict(model.state_dict())
    swa_utils.update_bn(data, reference)
    update_bn(model, data, estimator="batch-mean")
    assert_same_statistics(model, reference, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_gpu_gives_the_statistics_of_the_cpu(estimator):
    model, reference = ready().append(nn.SyncBatchNorm(5)), ready().append(nn.SyncBatchNorm(5))
    update_bn(reference, batches(16, 16, 5), estimator=estimator)
    update_bn(model.cuda(), batches(16, 16, 5), estimator=estimator)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value.cpu(), reference.state_dict()[key], rtol=1e-3, atol=1e-3)


def sharded(context):
    """Statistics of batches dealt to the ranks; SyncBatchNorm among the layers."""
    model = ready()
    model.append(nn.SyncBatchNorm(5))
    data = batches(16, 16, 16, 16, 7)
    results = {}
    for estimator in ESTIMATORS:
        mine = data[context.rank :: context.world_size]
        report = update_bn(model, mine, estimator=estimator, context=context)
        assert (report.n_samples, report.n_batches) == (71, 5)
        results[estimator] = {k: v.clone() for k, v in model.state_dict().items()}
    # More ranks than batches.
    update_bn(model, data[:1] if context.rank == 0 else [], context=context)
    results["one batch"] = {k: v.clone() for k, v in model.state_dict().items()}
    return results


def test_two_ranks_give_the_statistics_of_one(on_ranks):
    first, second = on_ranks(sharded)
    model, data = ready(), batches(16, 16, 16, 16, 7)
    model.append(nn.SyncBatchNorm(5))
    for estimator in (*ESTIMATORS, "one batch"):
        if estimator == "one batch":
            update_bn(model, data[:1])
        else:
            update_bn(model, data, estimator=estimator)
        for key, expected in model.state_dict().items():
            assert first[estimator][key].equal(second[estimator][key])
            torch.testing.assert_close(first[estimator][key], expected, rtol=1e-6, atol=1e-7)
