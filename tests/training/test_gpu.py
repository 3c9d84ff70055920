"""What only shows on CUDA."""

import subprocess
import sys

import pytest
import torch

from swa_tools.models import load_state_dict
from swa_tools.training.loop import finetune
from swa_tools.training.resume import load_resume_point

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_mixed_precision_saves_contiguous_float32_weights(options, amp):
    run = finetune(options(device="cuda", amp=amp, ema=0.9)).run
    for folder in ("checkpoints", "ema"):
        state = load_state_dict(run / folder / "cycle-002.safetensors")
        floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
        assert {tensor.dtype for tensor in floats} == {torch.float32}
        assert all(torch.isfinite(tensor).all() for tensor in floats)
    buffers = load_resume_point(run / "resume.pt").optimizer["state"].values()
    assert all(state["momentum_buffer"].is_contiguous() for state in buffers)


def test_a_compiled_model_trains_and_its_checkpoints_have_the_plain_names(options):
    plain = finetune(options(device="cuda", epochs=1))
    names = load_state_dict(plain.captures[0]).keys()
    compiled = finetune(options(device="cuda", epochs=1, compile=True, force=True))
    assert load_state_dict(compiled.captures[0]).keys() == names


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_synchronised_batchnorm_runs_on_two_gpus(recipe, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "swa_tools", "finetune", *map(str, recipe), "--device", "cuda", "--sync-bn"]
    finished = subprocess.run(
        [sys.executable, *launcher, *arguments, "-o", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    state = load_state_dict(tmp_path / "run" / "checkpoints" / "cycle-003.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.parametrize(("before", "after"), [("bf16", "fp16"), ("fp16", "off"), ("off", "fp16")])
def test_a_run_goes_on_in_another_precision(options, before, after):
    finetune(options(device="cuda", amp=before, epochs=1))
    run = finetune(options(device="cuda", amp=after, epochs=2, resume=True)).run
    state = load_state_dict(run / "checkpoints" / "cycle-002.safetensors")
    assert all(torch.isfinite(t).all() for t in state.values() if t.is_floating_point())
