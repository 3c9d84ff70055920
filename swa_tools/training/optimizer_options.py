"""How weights are updated, as a person says it."""

import dataclasses
from typing import Any, Literal

from swa_tools.options import NOT_NEGATIVE, POSITIVE, SHARE, option

_UPDATE: dict[str, Any] = {"section": "Optimizer", "affects": "numbers"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerOptions:
    """The update. The momentum buffer of SGD is not reset when the learning rate jumps."""

    optimizer: Literal["sgd", "adamw"] = option("sgd", help="The paper's is sgd.", **_UPDATE)
    momentum: float = option(
        0.9,
        help="As the SWAG authors' ImageNet script; the paper does not say.",
        bounds=SHARE,
        **_UPDATE,
    )
    nesterov: bool = option(False, help="Nesterov momentum.", **_UPDATE)
    weight_decay: float = option(
        1e-4,
        help="As the SWAG authors' ImageNet script; the paper does not say.",
        bounds=NOT_NEGATIVE,
        **_UPDATE,
    )
    no_decay_norm_bias: bool = option(False, help="No weight decay on norms and biases.", **_UPDATE)
    clip_grad: float | None = option(
        None, help="Largest norm of the gradients.", bounds=POSITIVE, **_UPDATE
    )
