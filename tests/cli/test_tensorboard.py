import sys

import pytest

from swa_tools.cli.tensorboard import log_scalars, scalars
from swa_tools.errors import SwaToolsError
from swa_tools.records import Record
from swa_tools.training.progress import RunListener

STEP = Record(event="step", step=3, lr=0.1, train_loss=2.0)
SCORE = Record(event="evaluation", step=6, kind="checkpoint", split="val", top1=50.0, nll=1.5)


def test_records_become_scalars():
    assert scalars(STEP) == {"train/lr": 0.1, "train/train_loss": 2.0}
    assert scalars(SCORE) == {"val/checkpoint/top1": 50.0, "val/checkpoint/nll": 1.5}
    assert scalars(Record(event="epoch", step=6, train_loss=2.0)) == {}


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SwaToolsError, match="pip install"), log_scalars(tmp_path, RunListener()):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_records_are_logged_and_passed_on(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = []
    folder = tmp_path / "tensorboard"
    with log_scalars(folder, RunListener(on_record=told.append)) as listener:
        assert not folder.exists()
        for record in (STEP, SCORE):
            listener.on_record(record)
    assert told == [STEP, SCORE]
    log = EventAccumulator(str(folder))
    log.Reload()
    assert [(event.step, event.value) for event in log.Scalars("val/checkpoint/top1")] == [(6, 50)]
