"""Weights on trial: BatchNorm recomputed for them, then scored."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from swa_tools.batchnorm import Conditions, conditions_of, recompute
from swa_tools.data import ImageSet, evaluation_loader, map_to_outputs
from swa_tools.distributed import amp_dtype
from swa_tools.evaluation import Score, evaluate
from swa_tools.listening import Advance, unheard
from swa_tools.models import BuiltModel, has_batchnorm, load_checkpoint, load_into
from swa_tools.selection.setting import Setting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The conditions that all weights are tried under.

    Attributes:
        built: The model, on the device of the context.
        images: The images to score on, with the model's outputs as targets.
        setting: What the weights are made ready with.
        conditions: View, batch size and seed that their statistics are measured with.
    """

    built: BuiltModel
    images: ImageSet
    setting: Setting
    conditions: Conditions

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
        n_all = len(self.setting.train)
        n_samples = min(self.setting.bn.n_samples or n_all, n_all)
        return (n_samples + len(self.images)) // self.setting.context.world_size

    def score(
        self, state_dicts: Mapping[str, Mapping[str, torch.Tensor]], *, advance: Advance = unheard
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
        context, evaluation = self.setting.context, self.setting.evaluation
        recompute(
            list(modules.values()),
            self.setting.train,
            preprocessing=self.built.preprocessing,
            options=self.setting.bn,
            conditions=self.conditions,
            context=context,
            advance=advance,
        )
        loader = evaluation_loader(
            self.images, self.built.preprocessing, options=evaluation, context=context
        )
        amp = amp_dtype(evaluation.amp, context.device)
        return evaluate(modules, loader, context=context, amp=amp, advance=advance).scores


def open_trial(path: Path, images: ImageSet, setting: Setting) -> Trial:
    """Build a checkpoint's model, for trials of weights of the same model.

    Args:
        path: One of the checkpoints; it says which model they belong to, or the evaluation does.
        images: The images to score on, their classes not mapped yet.
        setting: What the weights are made ready with.

    Raises:
        SwaToolsError: As from `load_checkpoint` and `map_to_outputs`.
    """
    built, metadata = load_checkpoint(path, setting.evaluation)
    return Trial(
        built=built.on(setting.context.device, channels_last=setting.evaluation.channels_last),
        images=map_to_outputs(images, built.info),
        setting=setting,
        conditions=conditions_of(setting.bn, metadata, built.preprocessing),
    )
