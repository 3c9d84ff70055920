"""The point to resume a run from: one file, replaced as a whole."""

import dataclasses
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from swa_tools.checkpoints import atomic_output
from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.errors import TrainingError
from swa_tools.options import declared, values_of
from swa_tools.training.options import FinetuneOptions, compared

SCHEMA = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """Everything that the rest of a run depends on.

    The position in the epoch follows from the step, and the random numbers of every rank follow
    from the seed, the step and the rank, so neither has its own state.

    Attributes:
        step: Optimizer steps completed.
        settings: What the run was started with, as far as its numbers depend on it.
        environment: Where it ran; another environment changes the last bits of the numbers.
        model, optimizer, scaler: The state_dict of each.
        ema: The moving average's state_dict, if the run keeps one.
        online: The state of the running average of captures, if the run keeps one.
        validated_step: The last step whose validation is in the metrics; None before the first.
        metrics_bytes: Length of `metrics.jsonl`; anything after it comes from steps that were lost.
        window_losses: Losses since the last `step` record, over all ranks.
        epoch_loss: Sum of the losses of the epoch's steps so far.
        n_steps: Optimizer steps planned; None from a version that did not save it.
    """

    step: int
    settings: dict[str, Any]
    environment: dict[str, Any]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    ema: dict[str, torch.Tensor] | None
    online: dict[str, Any] | None
    validated_step: int | None
    metrics_bytes: int
    window_losses: list[float]
    epoch_loss: float
    n_steps: int | None = None


def save_resume_point(path: Path, point: ResumePoint) -> float:
    """Write a resume point; it replaces the previous one once it is whole.

    Tensors are stored on the CPU and contiguous.

    Returns:
        The time that it took, in seconds.

    Raises:
        OutputError: It cannot be written; the previous one is still there.
    """
    start = time.monotonic()
    fields = {field.name: getattr(point, field.name) for field in dataclasses.fields(point)}
    document = _on_cpu({"schema": SCHEMA, **fields})
    with atomic_output(path, force=True) as file:
        _save(document, file)
    return time.monotonic() - start


def load_resume_point(path: Path) -> ResumePoint:
    """Read a resume point onto the CPU.

    Raises:
        TrainingError: It is missing, damaged, or from a version with another schema.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        schema = document.pop("schema")
        if schema == SCHEMA:
            return ResumePoint(**document)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{path}: there is no point to resume from; check that {path.parent} is a run directory"
        ) from error
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, error) from error
    except pickle.UnpicklingError as error:
        raise _broken(path, error) from error
    raise TrainingError(
        f"{path}: has schema {schema}, but this version reads {SCHEMA}; use the version of"
        " swa-tools that wrote it"
    )


def check_settings(found: Mapping[str, Any], *, expected: Mapping[str, Any], run: Path) -> None:
    """Compare what a run was started with and what it is to be resumed with.

    An option that an older version did not save counts as its default.

    Raises:
        TrainingError: They differ; the message names every difference.
    """
    defaults = {one.title: one.default for one in compared(FinetuneOptions)}
    was = {name: defaults.get(name) if value is None else value for name, value in found.items()}
    was = {name: defaults[name] for name in expected.keys() & defaults.keys()} | was
    differences = [
        f"{name} was {_show(was.get(name))}, is now {_show(expected.get(name))}"
        for name in sorted(was.keys() | expected.keys())
        if was.get(name) != expected.get(name)
    ]
    if differences:
        raise TrainingError(
            f"{run}: cannot be resumed with other options: {'; '.join(differences)}; resume with"
            " its own options (--resume alone takes them), or start another run with -o"
        )


def environment(context: Distributed, options: FinetuneOptions) -> dict[str, Any]:
    """Return what two runs must have in common to give the same bytes on a CPU."""
    amp = amp_dtype(options.amp, context.device)
    values = values_of(options)
    asked = {
        one.title: values[one.name] for one in declared(options) if one.option.affects == "bits"
    }
    resolved = {
        "device": context.device.type,
        "amp": "off" if amp is None else str(amp).removeprefix("torch."),
    }
    return {
        "ranks": context.world_size,
        "torch threads": torch.get_num_threads(),
        "torch version": str(torch.__version__),
        **asked,
        **resolved,
    }


def describe_changes(found: Mapping[str, Any], *, now: Mapping[str, Any]) -> str | None:
    """Return a line about what differs between two environments; None if nothing does.

    What an older version did not save is not compared.
    """
    changes = [
        f"{name} {value}, was {found[name]}"
        for name, value in now.items()
        if name in found and value != found[name]
    ]
    if not changes:
        return None
    return f"not bit for bit the same as an uninterrupted run: {'; '.join(changes)}"


def _show(value: Any) -> str:
    return "not set" if value is None else str(value)


def _broken(path: Path, error: Exception) -> TrainingError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return TrainingError(f"{path}: not a point to resume from: {reason}")


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu").contiguous()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_cpu(item) for item in value]
    return value


class _Recorder:
    """A file for torch.save that keeps the OSError that torch turns into a RuntimeError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(document: Any, file: BinaryIO) -> None:
    recorder = _Recorder(file)
    try:
        torch.save(document, recorder)  # type: ignore[arg-type]
    except RuntimeError:
        if recorder.error is None:
            raise
        raise recorder.error from None
