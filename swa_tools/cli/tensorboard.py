"""`finetune --tensorboard`: the records of a run as scalars."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from swa_tools.errors import SwaToolsError

if TYPE_CHECKING:
    from swa_tools.records import Record
    from swa_tools.training.progress import Listener


@contextlib.contextmanager
def log_scalars(folder: Path, listener: "Listener") -> Iterator["Listener"]:
    """Write every record to a TensorBoard log, besides what a listener does with it.

    Yields:
        The listener that does both.

    Raises:
        SwaToolsError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SwaToolsError(
            "--tensorboard: it is not installed; pip install 'swa-tools[tensorboard]'"
        ) from error
    with SummaryWriter(folder) as writer:

        def on_record(record: "Record") -> None:
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, record.step)
            listener.on_record(record)

        yield dataclasses.replace(listener, on_record=on_record)


def scalars(record: "Record") -> dict[str, float]:
    """Return what a record has to show, by TensorBoard's names."""
    group = "train" if record.event == "step" else f"{record.split}/{record.kind}"
    values = {
        f"{group}/{name}": getattr(record, name)
        for name in ("lr", "train_loss", "top1", "top5", "nll", "ece")
        if record.event == "step" or name not in ("lr", "train_loss")
    }
    return {name: value for name, value in values.items() if value is not None}
