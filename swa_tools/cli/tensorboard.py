"""`finetune --tensorboard`: the records of a run as scalars."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from swa_tools.errors import SwaToolsError

if TYPE_CHECKING:
    from swa_tools.records import Record
    from swa_tools.training.progress import RunListener


@contextlib.contextmanager
def log_scalars(folder: Path, listener: "RunListener") -> Iterator["RunListener"]:
    """Write every record to a TensorBoard log, besides what a listener does with it.

    The folder appears with the first record. Anything that an earlier process logged from that step
    on is purged: a resumed run repeats these steps.

    Yields:
        The listener that does both.

    Raises:
        SwaToolsError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SwaToolsError(
            "--tensorboard: tensorboard is not installed; try: pip install 'swa-tools[tensorboard]'"
        ) from error
    with contextlib.ExitStack() as stack:
        writers: list[SummaryWriter] = []

        def on_record(record: "Record") -> None:
            if not writers:
                writer = SummaryWriter(folder, purge_step=record.step)
                writers.append(stack.enter_context(writer))
            for name, value in scalars(record).items():
                writers[0].add_scalar(name, value, record.step)
            listener.on_record(record)

        yield dataclasses.replace(listener, on_record=on_record)


def scalars(record: "Record") -> dict[str, float]:
    """Return the scalars of a record, by their names in TensorBoard."""
    if record.event == "epoch":
        return {}
    names: tuple[str, ...] = ("top1", "top5", "nll", "ece")
    group = f"{record.split}/{record.kind}"
    if record.event == "step":
        group, names = "train", ("lr", "train_loss")
    values = {name: getattr(record, name) for name in names}
    return {f"{group}/{name}": value for name, value in values.items() if value is not None}
