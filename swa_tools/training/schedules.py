"""Learning rates as pure functions of the optimizer step.

Steps count from 1 within the run. In a cycle of c steps, step i has the position
t(i) = ((i - 1) mod c + 1)/c, so that t is 1 at the last step. With α₁ = `lr_max` and α₂ = `lr_min`:

| schedule | learning rate | captured |
|---|---|---|
| `sawtooth` | (1 - t)α₁ + tα₂ | after each cycle's last step |
| `triangular` | (1 - 2t)α₁ + 2tα₂, then (2 - 2t)α₂ + (2t - 1)α₁ | at t = ½ |
| `constant` | α₁ | after each epoch |
| `shake-shake` | ½α₁(1 + cos(π(1600 + epoch mod 100)/1800)) | after each 100 epochs |
| `anneal` | α₁ until half the budget, linear to 0.01α₁ at 0.9 of the budget | at the end |
| `cosine` | α₂ + ½(α₁ - α₂)(1 + cos πx), x the spent share of the budget | at the end |
| `multistep` | α₁ times gamma for each milestone passed | at the end |

The first four have cycles: SWA's (Izmailov et al. 2018, section 3.1), FGE's (Garipov et al. 2018),
SWA's with "c = 1", and SWA's for Shake-Shake networks (appendix A.1). The last three are
conventional (`anneal`: appendix A.1) and serve as controls: their budget is separate from where the
run stops, and a run may begin within it (`start_steps`).
"""

import bisect
import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(ABC):
    """A learning rate for every optimizer step, and the steps after which checkpoints are taken.

    Attributes:
        name: Its name on the command line and in metadata.
        lr_max: α₁, the highest rate.
        cycle_steps: c, the optimizer steps of a cycle; None for a schedule without cycles, which
            is captured once, at the end of the run.
    """

    name: ClassVar[str]

    lr_max: float
    cycle_steps: int | None = None

    @abstractmethod
    def lr(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`, counted from 1."""

    def cycle(self, step: int) -> int | None:
        """Return the number of the cycle that `step` belongs to, from 1; None without cycles."""
        return None if self.cycle_steps is None else (step - 1) // self.cycle_steps + 1

    def captures(self, n_steps: int) -> range:
        """Return the steps after which a run of `n_steps` takes its checkpoints."""
        if self.cycle_steps is None:
            return range(n_steps, n_steps + 1)
        return range(self.cycle_steps, n_steps + 1, self.cycle_steps)

    def incomplete_steps(self, n_steps: int) -> int:
        """Return how many steps a run of `n_steps` spends in a cycle that it does not complete."""
        return 0 if self.cycle_steps is None else n_steps % self.cycle_steps

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the constants, as a checkpoint's metadata has them."""
        return {"name": self.name, **dataclasses.asdict(self)}


def _position(step: int, cycle_steps: int) -> float:
    """Return t(i): 1/c at the first step of a cycle and 1 at its last."""
    return ((step - 1) % cycle_steps + 1) / cycle_steps


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sawtooth(Schedule):
    """SWA's discontinuous cycle: from lr_max down to exactly lr_min at the cycle's last step."""

    name: ClassVar[str] = "sawtooth"

    lr_min: float
    cycle_steps: int

    def lr(self, step: int) -> float:
        """Return (1 - t)α₁ + tα₂ (section 3.1)."""
        t = _position(step, self.cycle_steps)
        return (1 - t) * self.lr_max + t * self.lr_min


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Triangular(Schedule):
    """FGE's continuous cycle: down to lr_min in its middle and up again; c is even."""

    name: ClassVar[str] = "triangular"

    lr_min: float
    cycle_steps: int

    def lr(self, step: int) -> float:
        """Return the two linear halves of the cycle; exactly α₂ at t = ½ and α₁ at t = 1."""
        t = _position(step, self.cycle_steps)
        if t <= 0.5:
            return (1 - 2 * t) * self.lr_max + 2 * t * self.lr_min
        return (2 - 2 * t) * self.lr_min + (2 * t - 1) * self.lr_max

    def captures(self, n_steps: int) -> range:
        """Return the middles of the cycles that a run of `n_steps` completes."""
        complete = n_steps - n_steps % self.cycle_steps
        return range(self.cycle_steps // 2, complete + 1, self.cycle_steps)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Schedule):
    """The same rate throughout; a cycle is the distance between captures, usually an epoch."""

    name: ClassVar[str] = "constant"

    cycle_steps: int

    def lr(self, step: int) -> float:  # noqa: ARG002 - It is the same at every step.
        """Return α₁."""
        return self.lr_max


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShakeShake(Schedule):
    """The piece of a long cosine annealing that is repeated for Shake-Shake networks.

    Attributes:
        lr_max: The rate at which the whole cosine begins: twice the factor in the paper's formula.
        steps_per_epoch: Number of steps in an epoch, within which the rate is constant.
        start_epoch: The epoch of the cosine at which every cycle begins.
        budget_epochs: Length of the whole cosine.
    """

    name: ClassVar[str] = "shake-shake"

    lr_max: float = 0.2
    cycle_steps: int
    steps_per_epoch: int
    start_epoch: float = 1600
    budget_epochs: float = 1800

    def lr(self, step: int) -> float:
        """Return ½α₁(1 + cos(π(1600 + epoch mod 100)/1800)) (appendix A.1)."""
        epoch = (step - 1) % self.cycle_steps // self.steps_per_epoch
        angle = math.pi * (self.start_epoch + epoch) / self.budget_epochs
        return 0.5 * self.lr_max * (1 + math.cos(angle))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Anneal(Schedule):
    """The paper's conventional SGD, over a budget that the run need not exhaust."""

    name: ClassVar[str] = "anneal"

    budget_steps: int
    start_steps: int = 0

    def lr(self, step: int) -> float:
        """Return α₁ until half the budget, then linear to 0.01α₁ at 0.9 of the budget (A.1)."""
        spent = (self.start_steps + step) / self.budget_steps
        if spent <= 0.5:
            return self.lr_max
        if spent >= 0.9:
            return 0.01 * self.lr_max
        return self.lr_max * (1 - 0.99 * (spent - 0.5) / 0.4)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from lr_max to exactly lr_min at the last step of the budget."""

    name: ClassVar[str] = "cosine"

    lr_min: float = 0.0
    budget_steps: int
    start_steps: int = 0

    def lr(self, step: int) -> float:
        """Return α₂ + ½(α₁ - α₂)(1 + cos πx); α₂ beyond the budget."""
        spent = min(1.0, (self.start_steps + step) / self.budget_steps)
        share = 0.5 * (1 + math.cos(math.pi * spent))
        return share * self.lr_max + (1 - share) * self.lr_min


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MultiStep(Schedule):
    """lr_max, multiplied by `gamma` after each milestone's number of steps."""

    name: ClassVar[str] = "multistep"

    milestone_steps: tuple[int, ...]
    gamma: float
    start_steps: int = 0

    def lr(self, step: int) -> float:
        """Return α₁ · gamma^m after m milestones."""
        done = self.start_steps + step - 1
        return self.lr_max * self.gamma ** bisect.bisect_right(self.milestone_steps, done)


SCHEDULES = ("sawtooth", "triangular", "constant", "shake-shake", "anneal", "cosine", "multistep")
"""The names, in the order of the table above."""
