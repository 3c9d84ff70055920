"""Which checkpoints: by position, or by a metric, wherever the trainer wrote it."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch

from swa_tools.averaging import Selection, choose
from swa_tools.checkpoints import find_checkpoints, write_checkpoint
from swa_tools.errors import CheckpointError, SwaToolsError

VALUES = [71.0, 75.5, 74.0, 75.5, 72.0]


def numbers(paths, **options):
    chosen = choose(paths, Selection(**options)).paths
    return [int(path.stem.split("-")[-1].split(".")[0]) for path in chosen]


@pytest.fixture
def paths(tmp_path):
    made = [tmp_path / f"epoch-{k}.safetensors" for k in range(1, 8)]
    for k, path in enumerate(made):
        write_checkpoint(path, {"w": np.full(1, k)}, None)
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
    assert numbers(paths, **options) == expected


@pytest.mark.parametrize("option", ["first", "last", "top"])
def test_more_than_there_are_is_an_error(paths, option):
    with pytest.raises(SwaToolsError, match=f"--{option} 8: there are only 7 checkpoints with"):
        numbers(paths, **{option: 8}, metric="top1")


def test_top_without_a_metric_is_an_error(paths):
    with pytest.raises(SwaToolsError, match="name the metric with --metric"):
        numbers(paths, top=2)


def in_pickled_files(folder):
    for k, value in enumerate(VALUES):
        content = {"state_dict": {"w": torch.full((2,), k)}, "epoch": k, "metric": value}
        torch.save(content, folder / f"checkpoint-{k}.pth.tar")
    return [folder / f"checkpoint-{k}.pth.tar" for k in range(len(VALUES))]


def in_safetensors_metadata(folder):
    paths = [folder / f"checkpoint-{k}.safetensors" for k in range(len(VALUES))]
    for k, (path, value) in enumerate(zip(paths, VALUES, strict=True)):
        safetensors.numpy.save_file({"w": np.full(1, k)}, path, {"metric": str(value)})
    return paths


def in_a_summary_of_timm(folder):
    rows = ["epoch,train_loss,metric,lr"]
    paths = [folder / f"checkpoint-{k}.safetensors" for k in range(len(VALUES))]
    for k, (path, value) in enumerate(zip(paths, VALUES, strict=True)):
        write_checkpoint(path, {"w": np.full(1, k)}, None)
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
    assert numbers(write(tmp_path), **options, metric="metric") == expected


def test_choice_by_the_records_of_a_run(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (tmp_path / "run.json").write_text("{}")
    records = []
    for k, value in enumerate(VALUES):
        write_checkpoint(folder / f"cycle-{k}.safetensors", {"w": np.full(1, k)}, None)
        record = {"event": "evaluation", "split": "val", "checkpoint": f"cycle-{k}.safetensors"}
        records.append(json.dumps({**record, "top1": value}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(records) + "\n")
    paths = [folder / f"cycle-{k}.safetensors" for k in range(len(VALUES))]
    assert numbers(paths, top=2, metric="top1") == [1, 3]


def test_a_metric_that_nobody_wrote_is_an_error_that_says_where_it_was_looked_for(paths):
    with pytest.raises(
        SwaToolsError, match="epoch-1.*no metric 'top1'.*metrics.jsonl.*summary.csv"
    ):
        numbers(paths, top=2, metric="top1")


@pytest.mark.parametrize("lowest", [False, True])
def test_a_metric_that_is_nan_has_no_place_in_the_order(tmp_path, lowest):
    paths = [tmp_path / f"checkpoint-{k}.safetensors" for k in range(3)]
    for k, (path, value) in enumerate(zip(paths, ("0.5", "nan", "0.7"), strict=True)):
        safetensors.numpy.save_file({"w": np.full(1, k)}, path, {"loss": value})
    with pytest.raises(SwaToolsError, match="checkpoint-1.*no metric 'loss'.*found nan"):
        numbers(paths, top=2, metric="loss", lowest=lowest)


@pytest.mark.parametrize(
    "text", ["", "epoch\n", "a,b\n1,2\n", "epoch,metric\nx,1\n", "epoch,metric\n0,x\n", "\0"]
)
def test_a_summary_that_is_none_is_a_clear_error(tmp_path, text):
    path = tmp_path / "checkpoint-0.safetensors"
    write_checkpoint(path, {"w": np.ones(1)}, None)
    (tmp_path / "summary.csv").write_text(text)
    with pytest.raises(SwaToolsError):
        choose([path], Selection(top=1, metric="metric"))


def test_the_metric_is_read_from_the_names_that_lightning_gives(tmp_path):
    paths = [tmp_path / f"epoch={k}-val_loss={value}.ckpt" for k, value in enumerate(VALUES)]
    for k, path in enumerate(paths):
        torch.save({"state_dict": {"w": torch.full((2,), k)}}, path)
    chosen = choose(paths, Selection(top=2, metric="val_loss", lowest=True)).paths
    assert chosen == [paths[0], paths[4]]


def test_a_metric_in_a_name_is_read_whole(tmp_path):
    paths = [tmp_path / f"epoch={k}_val_loss={value}.ckpt" for k, value in enumerate(("2e-05", 1))]
    for k, path in enumerate(paths):
        torch.save({"state_dict": {"w": torch.full((2,), k)}}, path)
    assert choose(paths, Selection(top=1, metric="val_loss", lowest=True)).paths == paths[:1]
    with pytest.raises(CheckpointError, match="no metric 'loss' for it"):
        choose(paths, Selection(top=1, metric="loss", lowest=True))


def test_an_epoch_that_is_no_number_has_no_place_in_the_order(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": float("nan")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="it does not say its epoch"):
        choose([tmp_path / "a.pth"], Selection(by="epoch"))


def test_the_metric_is_read_from_the_table_of_lightning_by_epoch(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    rows = ["epoch,step,train_loss,val_acc"]
    for k, value in enumerate(VALUES):
        torch.save({"state_dict": {"w": torch.full((2,), k)}, "epoch": k}, folder / f"e-{k}.ckpt")
        rows += [f"{k},{k}1,0.5,", f"{k},{k}2,,{value}"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    paths = [folder / f"e-{k}.ckpt" for k in range(len(VALUES))]
    assert numbers(paths, top=2, metric="val_acc") == [1, 3]


class TestFilesThatRepeatOthers:
    """Trainers copy: `model_best` is an epoch's, `last` the last one's."""

    @pytest.fixture
    def folder(self, tmp_path):
        for k in (10, 11, 12):
            torch.save({"state_dict": {"w": torch.full((2,), k)}}, tmp_path / f"checkpoint-{k}.pth")
        shutil.copy(tmp_path / "checkpoint-10.pth", tmp_path / "model_best.pth")
        shutil.copy(tmp_path / "checkpoint-12.pth", tmp_path / "last.pth")
        return tmp_path

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, [10, 11, 12]),
            ({"last": 2}, [11, 12]),
            ({"last": 3}, [10, 11, 12]),
            ({"first": 1}, [10]),
            ({"every": 2}, [10, 12]),
        ],
    )
    def test_they_are_dropped_before_any_are_chosen(self, folder, options, expected):
        assert numbers(find_checkpoints([folder / "*.pth"]), **options) == expected
        assert numbers(sorted(folder.iterdir(), reverse=True), by="name", **options) == expected

    def test_which_was_dropped_is_said(self, folder):
        choice = choose(find_checkpoints([folder / "*.pth"]), Selection())
        assert [(d.checkpoint.name, d.original.name) for d in choice.duplicates] == [
            ("last.pth", "checkpoint-12.pth"),
            ("model_best.pth", "checkpoint-10.pth"),
        ]

    def test_fewer_than_were_asked_for_are_an_error(self, folder):
        with pytest.raises(SwaToolsError, match="--last 4: there are only 3 checkpoints"):
            choose(find_checkpoints([folder / "*.pth"]), Selection(last=4))

    def test_a_name_without_a_number_is_never_the_newest(self, folder):
        for name in ("last.pth", "model_best.pth"):
            torch.save({"state_dict": {"w": torch.ones(2) / len(name)}}, folder / name)
        found = find_checkpoints([folder / "*.pth"])
        assert [path.name for path in found[:2]] == ["last.pth", "model_best.pth"]
        assert numbers(found, last=3) == [10, 11, 12]


def test_the_order_is_by_epoch_or_time_where_that_is_asked_for(tmp_path):
    paths = [tmp_path / f"{name}.pth" for name in "abc"]
    for path, epoch, time in zip(paths, (3, 1, 2), (2, 3, 1), strict=True):
        torch.save({"state_dict": {"w": torch.full((2,), epoch)}, "epoch": epoch}, path)
        os.utime(path, (time, time))
    for by, expected in (("epoch", "bca"), ("time", "cab"), ("name", "abc")):
        chosen = choose(paths[::-1], Selection(by=by)).paths
        assert "".join(path.stem for path in chosen) == expected
    torch.save({"w": torch.ones(2)}, paths[0])
    with pytest.raises(CheckpointError, match=r"a.pth: --by epoch: it does not say its epoch"):
        choose(paths, Selection(by="epoch"))


def test_an_order_of_the_shell_is_named_where_it_decides_what_is_taken(tmp_path):
    paths = [tmp_path / f"epoch-{k}.safetensors" for k in (1, 10, 9)]
    for k, path in enumerate(paths):
        write_checkpoint(path, {"w": np.full(1, k)}, None)
    (note,) = choose(paths, Selection(last=1)).notes
    assert "in the order in which they were given" in note
    assert choose(paths, Selection()).notes == []
    assert choose(paths, Selection(last=1, by="name")).paths == [paths[1]]


def test_factors_of_an_adapter_are_averaged_with_a_warning(tmp_path):
    """The mean of A and B is far from the mean of B @ A."""
    paths = [tmp_path / f"adapter-{k}.safetensors" for k in range(2)]
    for k, path in enumerate(paths):
        names = ("A", "B")
        arrays = {f"base.q.lora_{name}.weight": np.full((2, 2), k) for name in names}
        write_checkpoint(path, arrays, None)
    (note,) = choose(paths, Selection()).notes
    assert "the mean of factors is not the mean of their products" in note
