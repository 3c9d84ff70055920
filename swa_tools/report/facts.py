"""The facts of a run, in a few words."""

from typing import Any

from swa_tools.report.runs import RunData


def describe_schedule(run: RunData) -> str:
    """Return the schedule in a few words: `sawtooth 0.05 → 0.0005, 10 cycles`."""
    plan = run.plan
    schedule = plan.get("schedule")
    if not isinstance(schedule, dict):
        return ""
    highest, lowest = schedule.get("lr_max"), schedule.get("lr_min")
    text = str(schedule.get("name", ""))
    if highest is not None:
        text += f" {highest:g}" + ("" if lowest is None else f" → {lowest:g}")
    steps, per_epoch = schedule.get("cycle_steps"), plan.get("steps_per_epoch")
    if steps and per_epoch:
        epochs = steps / per_epoch
        text += f", cycle {epochs:.3g} epoch{'s' if epochs != 1 else ''}"
    return text


def describe_epochs(run: RunData) -> str:
    """Return the length of a run and of the runs that it continues, in epochs: `64 (44 + 20)`."""
    before, own = run.epochs_before, run.n_epochs
    if own is None:
        return ""
    if before is None:
        return f"? + {own:g}"
    return f"{before + own:g} ({before:g} + {own:g})" if before else f"{own:g}"


def facts(run: RunData) -> list[tuple[str, str]]:
    """Return the known facts of a run, as pairs of a title and a text."""
    options, plan, hardware = run.options, run.plan, _part(run, "hardware")
    versions = _part(run, "versions")
    optimizer = [options.get("optimizer"), _named("momentum", options), _named("nesterov", options)]
    known = {
        "model": _part(run, "model").get("name"),
        "start": options.get("from_run") or options.get("checkpoint") or _pretrained(options),
        "images": options.get("data") or options.get("train_dir"),
        "training images": _count(plan.get("n_images")),
        "epochs": describe_epochs(run),
        "steps": _count(plan.get("n_steps")),
        "batch": plan.get("batch_size"),
        "schedule": describe_schedule(run),
        "optimizer": ", ".join(str(part) for part in optimizer if part),
        "weight decay": options.get("weight_decay"),
        "seed": options.get("seed"),
        "device": hardware.get("device"),
        "processes": hardware.get("world_size"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(title, _text(value)) for title, value in known.items() if value not in (None, "")]


def _part(run: RunData, name: str) -> dict[str, Any]:
    found = run.description.get(name)
    return found if isinstance(found, dict) else {}


def _pretrained(options: dict[str, Any]) -> str | None:
    if "pretrained" not in options:
        return None
    return "the library's weights" if options["pretrained"] else "random weights"


def _named(name: str, options: dict[str, Any]) -> str | None:
    value = options.get(name)
    if value is True:
        return name
    return f"{name} {value:g}" if isinstance(value, float) else None


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
