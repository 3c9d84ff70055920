import json

import torch

from swa_tools.checkpoints import read_metadata
from swa_tools.models import load_checkpoint
from swa_tools.records import read_records


def test_a_checkpoint_is_taken_at_each_minimum_and_says_everything_about_it(finished_run):
    captures = sorted((finished_run / "checkpoints").iterdir())
    assert [path.name for path in captures] == [f"cycle-00{n}.safetensors" for n in (1, 2, 3)]
    for number, path in enumerate(captures, start=1):
        metadata = read_metadata(path)
        assert metadata.training.cycle == number
        assert metadata.training.step == 6 * number
        assert metadata.training.epoch == number
        assert metadata.training.lr == 0.001
        assert metadata.training.schedule["name"] == "sawtooth"
        assert metadata.bn.state == "trained"
        assert metadata.model.classes == ("blue", "green", "red")
        assert metadata.preprocessing.image_size == 32


def test_start_is_kept_and_captures_differ_from_it(finished_run):
    start, metadata = load_checkpoint(finished_run / "start.safetensors")
    assert metadata.training is None
    first, _ = load_checkpoint(finished_run / "checkpoints" / "cycle-001.safetensors")
    weights = zip(start.module.parameters(), first.module.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in weights)


def test_metrics_hold_the_learning_rate_and_a_validation_of_the_start_and_each_minimum(
    finished_run,
):
    records = list(read_records(finished_run / "metrics.jsonl"))
    steps = [record for record in records if record.event == "step"]
    assert [record.step for record in steps] == list(range(2, 19, 2))
    assert steps[2].lr == 0.001
    evaluations = [record for record in records if record.event == "evaluation"]
    assert [record.checkpoint for record in evaluations] == [
        "start.safetensors",
        *(f"cycle-00{number}.safetensors" for number in (1, 2, 3)),
    ]
    assert {record.n_samples for record in evaluations} == {12}
    assert [record.epoch for record in records if record.event == "epoch"] == [1, 2, 3]
    assert evaluations[0].kind == "start"
    assert evaluations[-1].digest.startswith("xxh3-128:")


def test_run_json_says_what_is_needed_to_run_it_again(finished_run):
    document = json.loads((finished_run / "run.json").read_text())
    assert document["options"]["lr_max"] == 0.05
    assert document["versions"]["torch"] == torch.__version__
    assert document["torch_threads"] == 1
    assert "finetune timm/test_efficientnet" in document["command"]
