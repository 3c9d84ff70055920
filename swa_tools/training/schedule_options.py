"""A schedule as a user asks for it, in epochs, and its translation into steps."""

import dataclasses
import math
from typing import Any

from swa_tools.errors import TrainingError
from swa_tools.options import COUNT, POSITIVE, option
from swa_tools.training.schedules import (
    SCHEDULES,
    Anneal,
    Constant,
    Cosine,
    MultiStep,
    Sawtooth,
    Schedule,
    ShakeShake,
    Triangular,
)

_RATE: dict[str, Any] = {"section": "Learning rate", "affects": "numbers", "may_change": True}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions:
    """What the command line says about the schedule; None takes the schedule's own default.

    A resumed run compares the schedule that follows from these options. A cycle is given in steps,
    or in epochs, which are rounded to whole steps. The conventional schedules have no cycles; with
    them it is the distance between captures.
    """

    schedule: str = option(
        "sawtooth",
        help="Learning rate schedule: sawtooth is SWA's, triangular FGE's, anneal the paper's"
        " conventional SGD.",
        choices=SCHEDULES,
        **_RATE,
    )
    lr_max: float | None = option(
        None,
        help="Highest learning rate, α₁.",
        shown_default="0.001, the paper's for ImageNet; shake-shake: 0.2",
        bounds=POSITIVE,
        **_RATE,
    )
    lr_min: float | None = option(
        None,
        help="Lowest learning rate, α₂.",
        shown_default="0.00001, the paper's; cosine: 0",
        **_RATE,
    )
    cycle_epochs: float | None = option(
        None,
        help="Length of a cycle in epochs.",
        shown_default="1, the paper's; shake-shake: 100",
        bounds=POSITIVE,
        **_RATE,
    )
    cycle_steps: int | None = option(
        None, help="Length of a cycle in optimizer steps.", bounds=COUNT, **_RATE
    )
    budget_epochs: float | None = option(
        None,
        help="Length of the whole annealing (anneal, cosine, shake-shake).",
        shown_default="up to the run's end; shake-shake: 1800",
        bounds=POSITIVE,
        **_RATE,
    )
    start_epoch: float | None = option(
        None,
        help="Epochs of the budget spent before this run.",
        shown_default="0; shake-shake: 1600",
        **_RATE,
    )
    milestones: tuple[float, ...] | None = option(
        None,
        help="Epochs of the budget at which multistep lowers the rate.",
        metavar="E,E,…",
        **_RATE,
    )
    gamma: float | None = option(
        None,
        help="Factor by which multistep multiplies the rate at each milestone.",
        shown_default="0.1",
        bounds=POSITIVE,
        **_RATE,
    )


def build_schedule(options: ScheduleOptions, *, steps_per_epoch: int, n_epochs: float) -> Schedule:
    """Build the schedule, with epochs turned into steps; `n_epochs` is the length of the run.

    Raises:
        TrainingError: The schedule is unknown, an option does not apply to it, or a number makes
            no sense.
    """
    _check(options)
    builders = {"shake-shake": _shake_shake, "multistep": _multistep}
    if options.schedule in ("sawtooth", "triangular", "constant"):
        return _cyclic(options, steps_per_epoch)
    if options.schedule in builders:
        return builders[options.schedule](options, steps_per_epoch)
    return _annealing(options, steps_per_epoch, n_epochs)


def steps_of(epochs: float, steps_per_epoch: int) -> int:
    """Return a number of epochs in whole optimizer steps, rounded to the nearest."""
    return math.floor(epochs * steps_per_epoch + 0.5)


_APPLIES = {
    "lr_min": ("sawtooth", "triangular", "cosine"),
    "budget_epochs": ("shake-shake", "anneal", "cosine"),
    "start_epoch": ("shake-shake", "anneal", "cosine", "multistep"),
    "milestones": ("multistep",),
    "gamma": ("multistep",),
}


def _check(options: ScheduleOptions) -> None:
    if options.schedule not in SCHEDULES:
        raise TrainingError(
            f"--schedule {options.schedule}: expected one of {', '.join(SCHEDULES)}"
        )
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None or field.name in ("schedule", "milestones"):
            continue
        flag = "--" + field.name.replace("_", "-")
        lowest_allowed = field.name in ("lr_min", "start_epoch")
        if not math.isfinite(value) or value < 0 or (value == 0 and not lowest_allowed):
            lowest = "of 0 or more" if lowest_allowed else "above 0"
            raise TrainingError(f"{flag} {value:g}: expected a number {lowest}")
    if any(not (math.isfinite(epoch) and epoch > 0) for epoch in options.milestones or ()):
        found = ",".join(f"{epoch:g}" for epoch in options.milestones or ())
        raise TrainingError(f"--milestones {found}: expected numbers above 0")
    for name, schedules in _APPLIES.items():
        if getattr(options, name) is not None and options.schedule not in schedules:
            raise TrainingError(
                f"--{name.replace('_', '-')} does not apply to --schedule {options.schedule}, only"
                f" to {', '.join(schedules)}; leave it out"
            )
    if options.cycle_steps is not None and options.cycle_epochs is not None:
        raise TrainingError("--cycle-epochs and --cycle-steps mean the same; give only one of them")


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _rates(options: ScheduleOptions, *, lowest: float) -> tuple[float, float]:
    """Return α₁ and α₂, which is `lowest` by default."""
    lr_max, lr_min = _or(options.lr_max, 0.001), _or(options.lr_min, lowest)
    if lr_max < lr_min:
        of_whom = " (its default)" if options.lr_min is None else ""
        raise TrainingError(
            f"--lr-max {lr_max:g} is below --lr-min {lr_min:g}{of_whom}; give a higher --lr-max or"
            " a lower --lr-min"
        )
    return lr_max, lr_min


def _cycle_steps(
    options: ScheduleOptions, steps_per_epoch: int, *, default_epochs: float = 1, multiple: int = 1
) -> int:
    """Return c in steps, a multiple of `multiple`."""
    if options.cycle_steps is not None:
        if options.cycle_steps % multiple:
            raise TrainingError(
                f"--cycle-steps {options.cycle_steps}: a cycle of --schedule {options.schedule}"
                f" must be a multiple of {multiple} steps here; try"
                f" {math.ceil(options.cycle_steps / multiple) * multiple}"
            )
        return options.cycle_steps
    epochs = _or(options.cycle_epochs, default_epochs)
    steps = multiple * steps_of(epochs / multiple, steps_per_epoch)
    if steps < 1:
        raise TrainingError(
            f"a cycle of {epochs:g} epochs is too short: expected at least {multiple} of the"
            f" {steps_per_epoch} steps of an epoch; give a larger --cycle-epochs or a smaller"
            " --batch-size"
        )
    return steps


def _cyclic(options: ScheduleOptions, steps_per_epoch: int) -> Schedule:
    if options.schedule == "constant":
        return Constant(
            lr_max=_or(options.lr_max, 0.001), cycle_steps=_cycle_steps(options, steps_per_epoch)
        )
    lr_max, lr_min = _rates(options, lowest=0.00001)
    if options.schedule == "triangular":
        # The minimum is in the middle and needs its own step.
        cycle_steps = _cycle_steps(options, steps_per_epoch, multiple=2)
        return Triangular(lr_max=lr_max, lr_min=lr_min, cycle_steps=cycle_steps)
    cycle_steps = _cycle_steps(options, steps_per_epoch)
    return Sawtooth(lr_max=lr_max, lr_min=lr_min, cycle_steps=cycle_steps)


def _shake_shake(options: ScheduleOptions, steps_per_epoch: int) -> Schedule:
    # The cosine counts whole epochs, so a cycle must, too.
    cycle_steps = _cycle_steps(
        options, steps_per_epoch, default_epochs=100, multiple=steps_per_epoch
    )
    return ShakeShake(
        lr_max=_or(options.lr_max, 0.2),
        cycle_steps=cycle_steps,
        steps_per_epoch=steps_per_epoch,
        start_epoch=_or(options.start_epoch, 1600),
        budget_epochs=_or(options.budget_epochs, 1800),
    )


def _capture_steps(options: ScheduleOptions, steps_per_epoch: int) -> int | None:
    """Return the distance between the captures of a conventional schedule, if it has one."""
    if options.cycle_steps is None and options.cycle_epochs is None:
        return None
    return _cycle_steps(options, steps_per_epoch)


def _multistep(options: ScheduleOptions, steps_per_epoch: int) -> Schedule:
    if not options.milestones:
        raise TrainingError("--schedule multistep needs --milestones, such as 30,60,90")
    return MultiStep(
        lr_max=_or(options.lr_max, 0.001),
        cycle_steps=_capture_steps(options, steps_per_epoch),
        milestone_steps=tuple(steps_of(m, steps_per_epoch) for m in sorted(options.milestones)),
        gamma=_or(options.gamma, 0.1),
        start_steps=steps_of(_or(options.start_epoch, 0), steps_per_epoch),
    )


def _annealing(options: ScheduleOptions, steps_per_epoch: int, n_epochs: float) -> Schedule:
    start_epoch = _or(options.start_epoch, 0)
    budget_steps = steps_of(_or(options.budget_epochs, start_epoch + n_epochs), steps_per_epoch)
    start_steps = steps_of(start_epoch, steps_per_epoch)
    cycle_steps = _capture_steps(options, steps_per_epoch)
    if options.schedule == "anneal":
        return Anneal(
            lr_max=_or(options.lr_max, 0.001),
            cycle_steps=cycle_steps,
            budget_steps=max(1, budget_steps),
            start_steps=start_steps,
        )
    lr_max, lr_min = _rates(options, lowest=0)
    return Cosine(
        lr_max=lr_max,
        lr_min=lr_min,
        cycle_steps=cycle_steps,
        budget_steps=max(1, budget_steps),
        start_steps=start_steps,
    )
