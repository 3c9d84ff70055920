"""Weights on trial: BatchNorm recomputed for them, then scored."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from swa_tools.batchnorm import BnOptions, Conditions, conditions_of, recompute
from swa_tools.data import ImageSet, evaluation_loader, map_to_outputs
from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.evaluation import EvaluationOptions, Score, evaluate
from swa_tools.listening import Advance, unheard
from swa_tools.models import BuiltModel, has_batchnorm, load_checkpoint, load_into


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The conditions that all weights are tried under.

    Attributes:
        built: The model, on the device of the context.
        bn_images: What BatchNorm statistics are measured on.
        images: The images to score on, with the model's outputs as targets.
        bn: How the statistics are measured.
        conditions: View, batch size and seed that they are measured with.
        evaluation: How the weights are scored.
        context: The processes that share the work.
    """

    built: BuiltModel
    bn_images: ImageSet
    images: ImageSet
    bn: BnOptions
    conditions: Conditions
    evaluation: EvaluationOptions
    context: Distributed

    @property
    def bn_state(self) -> str:
        """State of the BatchNorm statistics that weights are scored with, as in `BnInfo`."""
        return "updated" if has_batchnorm(self.built.module) else "none"

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know about the recompute, one line each."""
        return self.conditions.notices if self.bn_state == "updated" else ()

    @property
    def n_images(self) -> int:
        """Images that a call of `score` runs through the network, about, on this rank."""
        n_samples = min(self.bn.n_samples or len(self.bn_images), len(self.bn_images))
        return (n_samples + len(self.images)) // self.context.world_size

    def score(
        self,
        state_dicts: Mapping[str, Mapping[str, torch.Tensor]],
        *,
        advance: Advance = unheard,
    ) -> dict[str, Score]:
        """Recompute BatchNorm for each set of weights and score it.

        Every image is decoded once for all sets of weights; each set has its own model in memory.

        Args:
            state_dicts: Weights by name.
            advance: Called with the number of images after each batch of either pass.

        Raises:
            SwaToolsError: As from `recompute` and `evaluate`.
        """
        modules: dict[str, nn.Module] = {}
        for name, state_dict in state_dicts.items():
            module = copy.deepcopy(self.built.module) if modules else self.built.module
            load_into(module, state_dict, where=name)
            modules[name] = module
        recompute(
            list(modules.values()),
            self.bn_images,
            preprocessing=self.built.preprocessing,
            options=self.bn,
            conditions=self.conditions,
            context=self.context,
            advance=advance,
        )
        loader = evaluation_loader(
            self.images, self.built.preprocessing, options=self.evaluation, context=self.context
        )
        amp = amp_dtype(self.evaluation.amp, self.context.device)
        return evaluate(modules, loader, context=self.context, amp=amp, advance=advance).scores


def open_trial(
    path: Path,
    *,
    bn_images: ImageSet,
    images: ImageSet,
    bn: BnOptions,
    evaluation: EvaluationOptions,
    context: Distributed,
) -> Trial:
    """Build a checkpoint's model, for trials of weights of the same model.

    Args:
        path: One of the checkpoints; it says which model they belong to, or `evaluation` does.
        bn_images: What BatchNorm statistics are measured on.
        images: The images to score on, their classes not mapped yet.
        bn: How the statistics are measured.
        evaluation: How the weights are scored.
        context: The processes that share the work.

    Raises:
        SwaToolsError: As from `load_checkpoint` and `map_to_outputs`.
    """
    built, metadata = load_checkpoint(path, evaluation)
    module = built.module.to(context.device)
    if evaluation.channels_last:
        module = module.to(memory_format=torch.channels_last)
    return Trial(
        built=dataclasses.replace(built, module=module),
        bn_images=bn_images,
        images=map_to_outputs(images, built.info),
        bn=bn,
        conditions=conditions_of(bn, metadata, built.preprocessing),
        evaluation=evaluation,
        context=context,
    )
