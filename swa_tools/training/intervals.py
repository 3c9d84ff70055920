"""How often a run does something, as a person says it and in steps."""

import dataclasses
import math
import re

from swa_tools.errors import TrainingError
from swa_tools.training.schedule_options import steps_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How often something happens: every so many steps, or minutes; both None for never."""

    steps: int | None = None
    minutes: float | None = None

    def includes(self, step: int) -> bool:
        """Tell whether it happens after a step, counted from 1."""
        return self.steps is not None and step % self.steps == 0


def parse_interval(text: str, *, flag: str, steps_per_epoch: int, minutes: bool) -> Interval:
    """Read `500`, `500steps`, `0.25epochs`, `10min`, `cycle` or `never`.

    What happens at the end of cycles does so anyway, so `cycle` adds nothing to it.

    Args:
        text: What the user wrote.
        flag: The option that it was written for, for the error.
        steps_per_epoch: To count epochs in steps.
        minutes: Whether minutes are allowed.

    Raises:
        TrainingError: It is none of these, or not above 0.
    """
    if text in ("cycle", "never"):
        return Interval()
    match = re.fullmatch(r"([0-9.]+) *(steps?|epochs?|min|)", text)
    unit = match[2] if match else ""
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        value = 0.0
    if unit.startswith("epoch"):
        value = steps_of(value, steps_per_epoch)
    is_whole = unit == "min" or value == math.floor(value)
    if value <= 0 or not is_whole or (unit == "min" and not minutes):
        examples = "500steps, 0.25epochs" + (", 10min" if minutes else "") + ", cycle or never"
        raise TrainingError(f"{flag} {text}: expected a number of at least one step: {examples}")
    return Interval(minutes=value) if unit == "min" else Interval(steps=int(value))
