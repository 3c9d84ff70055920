import types

import pytest
import torch
import torch.distributed as dist

from swa_tools.checkpoints import read_metadata
from swa_tools.errors import OtherRankError, TrainingError
from swa_tools.models import load_state_dict, save_state_dict
from swa_tools.records import read_records
from swa_tools.training.failures import are_finite, enough_memory, explain, is_lost_connection
from swa_tools.training.loop import finetune
from swa_tools.training.network import Stepper
from swa_tools.training.progress import RunListener
from swa_tools.training.resume import load_resume_point
from swa_tools.training.schedule_options import ScheduleOptions

DIVERGING = ScheduleOptions(schedule="constant", lr_max=1e30, cycle_steps=1)
"""After one step the weights have diverged, but the loss of that step was computed before."""

CPU_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory:"
    " you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)\nmore"
)
GLOO = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer"
    " [127.0.0.1]:17226"
)


def test_weights_that_diverged_are_neither_captured_nor_saved(options, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as raised:
        finetune(options(schedule=DIVERGING))
    message = str(raised.value)
    assert message.startswith("step 1 (epoch 0.17, learning rate 1e+30): the weights are not fin")
    assert f"the last good checkpoint is {run / 'start.safetensors'}" in message
    assert "--allow-nonfinite" in message
    assert list((run / "checkpoints").iterdir()) == []
    point = load_resume_point(run / "resume.pt")
    assert point.step == 0
    assert are_finite(list(point.model.values()))


def test_with_allow_nonfinite_they_are_and_the_run_goes_on(options):
    notices = []
    result = finetune(
        options(schedule=DIVERGING, allow_nonfinite=True, epochs=0.5, swa_online=True, swa_every=1),
        listener=RunListener(on_notice=notices.append),
    )
    assert result.step == 3
    assert len(result.captures) == 3
    assert any(notice.endswith("not finite; not validated") for notice in notices)
    scored = [r for r in read_records(result.run / "metrics.jsonl") if r.event == "evaluation"]
    assert [r.step for r in scored] == [0]


def test_logits_that_are_not_finite_stop_the_run_in_its_validation(options, monkeypatch, tmp_path):
    take = Stepper.take

    def take_and_break(self, images, targets, *, step, lr):
        loss = take(self, images, targets, step=step, lr=lr)
        if step == 12:  # too large for the network, not for the norm of the weights
            for parameter in self.model.parameters():
                parameter.data.fill_(1e15)
        return loss

    monkeypatch.setattr(Stepper, "take", take_and_break)
    with pytest.raises(TrainingError) as raised:
        finetune(options())
    message = str(raised.value)
    assert message.startswith("step 12 (epoch 2.00, ")
    assert "the logits of the validation are not finite" in message
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/cycle-001.safetens" in message
    records = list(read_records(tmp_path / "run" / "metrics.jsonl"))
    assert [r.step for r in records if r.event == "evaluation"] == [0, 6]


def test_starting_weights_that_are_not_finite_are_named(options, tmp_path):
    first = finetune(options(epochs=1, output=tmp_path / "first"))
    state = load_state_dict(first.captures[0])
    next(tensor for tensor in state.values() if tensor.ndim > 1).fill_(float("nan"))
    broken = tmp_path / "broken.safetensors"
    save_state_dict(broken, state, read_metadata(first.captures[0]))
    changes = {"model": None, "new_head": False, "image_size": None, "checkpoint": broken}
    with pytest.raises(TrainingError, match="start.safetensors: at the start the weights are not"):
        finetune(options(**changes))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, True), (float("nan"), False), (-float("inf"), False), (1e30, False)],
)
def test_numbers_whose_squares_overflow_are_not_finite(value, expected):
    tensors = [torch.ones(3), torch.tensor(2), torch.full((2, 2), value)]
    assert are_finite(tensors) is expected
    assert are_finite([])


def test_a_batch_too_small_for_batchnorm_is_one_line(options):
    with pytest.raises(
        TrainingError, match="step 1: BatchNorm needs more than one value.*1 images"
    ):
        finetune(options(model="timm/test_resnet", batch_size=1, epochs=0.1))


@pytest.mark.parametrize(
    "error", [CPU_MEMORY, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_every_lack_of_memory_is_one_line(options, monkeypatch, error):
    def take(self, images, targets, *, step, lr):
        raise error

    monkeypatch.setattr(Stepper, "take", take)
    with pytest.raises(TrainingError, match=r"^step 1: out of memory on cpu with 4 images at once"):
        finetune(options())


@pytest.mark.parametrize("error", [CPU_MEMORY, torch.OutOfMemoryError("CUDA out of memory")])
def test_a_lack_of_memory_as_a_run_is_set_up_is_one_line_and_writes_nothing(
    options, monkeypatch, tmp_path, error
):
    def build(*_):
        raise error

    monkeypatch.setattr("swa_tools.training.network.build_optimizer", build)
    with pytest.raises(TrainingError, match="out of memory on cpu for the model and its optimizer"):
        finetune(options(ema=0.9))
    assert not (tmp_path / "run").exists()


def test_other_errors_of_the_set_up_are_left_alone():
    with (
        pytest.raises(RuntimeError, match="size mismatch"),
        enough_memory(torch.device("cpu")),
    ):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (GLOO, True),
        (dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3690, remote process"), True),
        (dist.DistNetworkError("The client socket has failed to connect"), True),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_errors_of_a_connection_are_those_of_other_processes(error, is_lost):
    assert is_lost_connection(error) is is_lost
    run = types.SimpleNamespace(
        plan=types.SimpleNamespace(piece_size=4, accumulate=1),
        context=types.SimpleNamespace(world_size=2, rank=1, is_main=False, device="cpu"),
        step=7,
        way_on=lambda: "--resume run continues from step 6",
    )
    explained = explain(error, run)
    assert isinstance(explained, OtherRankError) is is_lost  # rank 0 tells of it
    message = str(explained)
    assert ("lost the other processes in step 7" in message) is is_lost
    assert message.startswith("rank 1")
    assert str(error) in message
    run.context.world_size = 1
    assert explain(error, run) is None
