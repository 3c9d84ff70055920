"""Which checkpoints: by position, or by a metric, wherever the trainer wrote it."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from swa_tools.averaging import Selection, select
from swa_tools.checkpoints import write_checkpoint
from swa_tools.errors import SwaToolsError

VALUES = [71.0, 75.5, 74.0, 75.5, 72.0]


def choose(paths, **options):
    return [
        int(path.stem.split("-")[-1].split(".")[0]) for path in select(paths, Selection(**options))
    ]


@pytest.fixture
def paths(tmp_path):
    made = [tmp_path / f"epoch-{k}.safetensors" for k in range(1, 8)]
    for path in made:
        write_checkpoint(path, {"w": np.ones(1)}, None)
    return made


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"last": 3}, [5, 6, 7]),
        ({"first": 3}, [1, 2, 3]),
        ({"every": 3}, [1, 4, 7]),
        ({"every": 2, "last": 2}, [5, 7]),
        ({"every": 2, "first": 2}, [1, 3]),
        ({"every": 100}, [7]),
        ({"first": 5, "last": 2}, [4, 5]),
        ({"last": 7}, [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_choice_by_position(paths, options, expected):
    assert choose(paths, **options) == expected


@pytest.mark.parametrize("option", ["first", "last", "top"])
def test_more_than_there_are_is_an_error(paths, option):
    with pytest.raises(SwaToolsError, match=f"--{option} 8: there are only 7"):
        choose(paths, **{option: 8}, metric="top1")


def test_top_without_a_metric_is_an_error(paths):
    with pytest.raises(SwaToolsError, match="name the metric with --metric"):
        choose(paths, top=2)


def in_pickled_files(folder):
    for k, value in enumerate(VALUES):
        content = {"state_dict": {"w": torch.ones(1)}, "epoch": k, "metric": value}
        torch.save(content, folder / f"checkpoint-{k}.pth.tar")
    return [folder / f"checkpoint-{k}.pth.tar" for k in range(len(VALUES))]


def in_safetensors_metadata(folder):
    paths = [folder / f"checkpoint-{k}.safetensors" for k in range(len(VALUES))]
    for path, value in zip(paths, VALUES, strict=True):
        safetensors.numpy.save_file({"w": np.ones(1)}, path, {"metric": str(value)})
    return paths


def in_a_summary_of_timm(folder):
    rows = ["epoch,train_loss,metric,lr"]
    paths = [folder / f"checkpoint-{k}.safetensors" for k in range(len(VALUES))]
    for k, (path, value) in enumerate(zip(paths, VALUES, strict=True)):
        write_checkpoint(path, {"w": np.ones(1)}, None)
        rows.append(f"{k},0.5,{value},0.1")
    (folder / "summary.csv").write_text("\n".join(rows) + "\n")
    return paths


@pytest.mark.parametrize("write", [in_pickled_files, in_safetensors_metadata, in_a_summary_of_timm])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top": 1}, [3]),  # of two that are equal the later
        ({"top": 2}, [1, 3]),
        ({"top": 3}, [1, 2, 3]),
        ({"top": 2, "lowest": True}, [0, 4]),
        ({"top": 1, "first": 3}, [1]),
    ],
)
def test_choice_by_a_metric_that_the_trainer_wrote(tmp_path, write, options, expected):
    assert choose(write(tmp_path), **options, metric="metric") == expected


def test_choice_by_the_records_of_a_run(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (tmp_path / "run.json").write_text("{}")
    records = []
    for k, value in enumerate(VALUES):
        write_checkpoint(folder / f"cycle-{k}.safetensors", {"w": np.ones(1)}, None)
        record = {"event": "evaluation", "split": "val", "checkpoint": f"cycle-{k}.safetensors"}
        records.append(json.dumps({**record, "top1": value}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(records) + "\n")
    paths = [folder / f"cycle-{k}.safetensors" for k in range(len(VALUES))]
    assert choose(paths, top=2, metric="top1") == [1, 3]


def test_a_metric_that_nobody_wrote_is_an_error_that_says_where_it_was_looked_for(paths):
    with pytest.raises(
        SwaToolsError, match="epoch-1.*no metric 'top1'.*metrics.jsonl.*summary.csv"
    ):
        choose(paths, top=2, metric="top1")


@pytest.mark.parametrize("lowest", [False, True])
def test_a_metric_that_is_nan_has_no_place_in_the_order(tmp_path, lowest):
    paths = [tmp_path / f"checkpoint-{k}.safetensors" for k in range(3)]
    for path, value in zip(paths, ("0.5", "nan", "0.7"), strict=True):
        safetensors.numpy.save_file({"w": np.ones(1)}, path, {"loss": value})
    with pytest.raises(SwaToolsError, match="checkpoint-1.*no metric 'loss'.*found nan"):
        choose(paths, top=2, metric="loss", lowest=lowest)


@pytest.mark.parametrize(
    "text", ["", "epoch\n", "a,b\n1,2\n", "epoch,metric\nx,1\n", "epoch,metric\n0,x\n", "\0"]
)
def test_a_summary_that_is_none_is_a_clear_error(tmp_path, text):
    path = tmp_path / "checkpoint-0.safetensors"
    write_checkpoint(path, {"w": np.ones(1)}, None)
    (tmp_path / "summary.csv").write_text(text)
    with pytest.raises(SwaToolsError):
        choose([path], top=1, metric="metric")
