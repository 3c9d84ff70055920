"""The optimizer, SGD as in the paper or AdamW, and its learning rate in a loop of your own."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from swa_tools.errors import TrainingError
from swa_tools.training.options import OptimizerOptions
from swa_tools.training.schedules import Schedule


def check_optimizer(options: OptimizerOptions) -> None:
    """Check early that `build_optimizer` can do what the options ask for.

    Raises:
        TrainingError: Some options do not go together.
    """
    if options.nesterov and options.optimizer != "sgd":
        raise TrainingError(
            f"--nesterov does not apply to --optimizer {options.optimizer}; leave it out"
        )
    if options.nesterov and options.momentum == 0:
        raise TrainingError("--nesterov needs a --momentum above 0, found 0; try 0.9")


def build_optimizer(module: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Return the optimizer of a module's trainable parameters, fused if torch supports it.

    Its learning rate is 0 until the first step sets it.
    """
    groups = _parameter_groups(module, options)
    fused = all(_can_be_fused(parameter) for group in groups for parameter in group["params"])
    if options.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=0.0, weight_decay=options.weight_decay, fused=fused or None
        )
    optimizer = torch.optim.SGD(
        groups,
        lr=0.0,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        fused=fused or None,
    )
    if options.momentum:
        # The first step makes them, unset, and is skipped if float16 overflows in it.
        for group in groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Load an optimizer's buffers; each takes the memory layout of its parameter.

    The hyperparameters stay the run's own, whatever those in the state were.

    Raises:
        ValueError: The state belongs to other parameters.
    """
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state_dict)
    for group, hyperparameters in zip(optimizer.param_groups, own, strict=True):
        group.update(hyperparameters)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _parameter_groups(module: nn.Module, options: OptimizerOptions) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not options.no_decay_norm_bias:
        return [{"params": parameters}]
    matrices, vectors = _split(parameters)
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _split(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    return matrices, vectors


def _can_be_fused(parameter: nn.Parameter) -> bool:
    return parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()


class ScheduleLR(LRScheduler):
    """Set the learning rate of every parameter group from a `Schedule`.

    Call `step()` once after each optimizer step, as with torch's own schedulers that count batches.
    The rate is set, not multiplied: the one given to the optimizer does not matter. A group with
    its own `lr_scale` gets the rate times that.

    Args:
        optimizer: Its groups are changed in place.
        schedule: From `swa_tools.training.schedules`.
        last_epoch: Number of optimizer steps already done, minus one; -1 to begin. The name is
            torch's.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule, *, last_epoch: int = -1
    ) -> None:
        self.schedule = schedule
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Any]:
        """Return the rate of the next optimizer step, per group."""
        lr = self.schedule.lr(self.last_epoch + 1)
        return [lr * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the position without the schedule, which the constructor is given again."""
        state: dict[str, Any] = super().state_dict()
        return {key: value for key, value in state.items() if key != "schedule"}
