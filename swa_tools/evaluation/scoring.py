"""Score checkpoint files: everything between paths and `score_predictors`."""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from swa_tools.data import ImageSet, evaluation_loader, map_to_outputs
from swa_tools.distributed import Distributed, amp_dtype
from swa_tools.errors import SwaToolsError
from swa_tools.evaluation.candidates import Candidate, check_bn, open_candidates
from swa_tools.evaluation.checkpoint_scores import CheckpointScores, ScoredCheckpoint
from swa_tools.evaluation.ensemble import ENSEMBLE
from swa_tools.evaluation.model_bank import ModelBank
from swa_tools.evaluation.one_pass import Evaluation, Predictor, score_predictors
from swa_tools.evaluation.options import EvaluationOptions
from swa_tools.evaluation.real_labels import real_accuracy, real_labels
from swa_tools.evaluation.saved_logits import labels_only, logits_path, reading, saving
from swa_tools.listening import Listener
from swa_tools.models import BuiltModel, load_checkpoint, load_state_dict


def evaluate_checkpoints(
    paths: Sequence[Path],
    images: ImageSet,
    *,
    options: EvaluationOptions,
    context: Distributed,
    listener: Listener | None = None,
    stage: str = "evaluating",
) -> CheckpointScores:
    """Score checkpoints of one model in one pass over the images.

    Files with the same tensors count once. Each image is decoded once for all checkpoints, and not
    at all if all logits are already saved.

    Args:
        paths: At least one, from `checkpoints.find_checkpoints`.
        images: A folder's images, their classes not mapped yet.
        options: How the checkpoints are scored.
        context: The processes that share the images.
        listener: Who hears how far it is.
        stage: What the listener hears it called.

    Raises:
        CheckpointError: A file cannot be read, belongs to another model or preprocessing than the
            others, or has stale BatchNorm statistics.
        ModelError: The weights do not fit the model, or give NaN.
        DataError: The images do not fit the model, or one cannot be read.
    """
    if options.save_logits is not None and options.skip_bad_images:
        raise SwaToolsError(
            "--save-logits needs every image of the set: leave out --skip-bad-images"
        )
    candidates, notices = open_candidates(paths, options)
    telling = next((one for one in candidates if one.says_its_model), candidates[0])
    built, _ = load_checkpoint(telling.path, options)
    if not options.allow_stale_bn:
        notices += check_bn(candidates, built.module)
    images = map_to_outputs(images, built.info)
    members = _members(candidates) if options.ensemble else []
    loader = evaluation_loader(images, built.preprocessing, options=options, context=context)
    with contextlib.ExitStack() as stack:
        n_images = len(images) // context.world_size
        advance = stack.enter_context((listener or Listener()).on_stage(stage, n_images))
        predictors, all_saved = _predictors(
            candidates, built, images=images, options=options, context=context, stack=stack
        )
        evaluation = score_predictors(
            predictors,
            labels_only(images, batch_size=options.images_per_batch, context=context)
            if all_saved
            else loader,
            context=context,
            ensemble=[one.name for one in members],
            advance=advance,
        )
    return CheckpointScores(
        checkpoints=_scored(candidates, built, images=images, evaluation=evaluation),
        evaluation=evaluation,
        images=images,
        n_skipped=sum(context.gather(len(loader.skipped))),
        members=tuple(one.name for one in members),
        ensemble_name="FGE" if members and all(map(_is_triangular, members)) else ENSEMBLE,
        notices=tuple(notices),
    )


def _predictors(
    candidates: Sequence[Candidate],
    built: BuiltModel,
    *,
    images: ImageSet,
    options: EvaluationOptions,
    context: Distributed,
    stack: contextlib.ExitStack,
) -> tuple[dict[str, Predictor], bool]:
    """Return where the logits of each candidate come from, and whether all are on disk."""
    amp = amp_dtype(options.amp, context.device)
    origins = {one.name: _origin(one, built, images, amp) for one in candidates}
    files = {
        one.name: logits_path(
            options.save_logits, checkpoint=one.path.name, origin=origins[one.name]
        )
        for one in candidates
        if options.save_logits is not None
    }
    # Rank 0 decides, so that a file that appears in the meantime cannot make the ranks disagree.
    saved = context.broadcast({name for name, file in files.items() if file.exists()})
    to_run = [one for one in candidates if one.name not in saved]
    bank = _bank(to_run, built, options=options, context=context)
    predictors = {
        name: stack.enter_context(reading(files[name], n_samples=len(images))) for name in saved
    }
    for one in to_run:
        predictor = bank.predictor(one.name, amp=amp)
        if one.name in files:
            keeping = saving(
                predictor,
                files[one.name],
                images=images,
                n_outputs=built.info.num_classes,
                origin=origins[one.name],
                context=context,
            )
            predictor = stack.enter_context(keeping)
        predictors[one.name] = predictor
    return {one.name: predictors[one.name] for one in candidates}, not to_run


def _origin(
    one: Candidate, built: BuiltModel, images: ImageSet, amp: torch.dtype | None
) -> dict[str, Any]:
    """Return everything that the logits of a candidate depend on."""
    return {
        "checkpoint": one.digest,
        "model": dataclasses.asdict(built.info),
        "images": images.digest(),
        "preprocessing": dataclasses.asdict(built.preprocessing),
        "amp": str(amp),
    }


def _bank(
    candidates: Sequence[Candidate],
    built: BuiltModel,
    *,
    options: EvaluationOptions,
    context: Distributed,
) -> ModelBank:
    return ModelBank(
        built.on(context.device, channels_last=options.channels_last).module,
        {
            one.name: functools.partial(load_state_dict, one.path, entry=options.entry)
            for one in candidates
        },
        at_once=options.at_once,
        compiled=options.compile,
    )


def _members(candidates: Sequence[Candidate]) -> list[Candidate]:
    members = [one for one in candidates if one.kind == "checkpoint"] or list(candidates)
    # A control that is scored together with a run's captures is not one of them.
    captures = [one for one in members if one.is_capture]
    members = _of_one_run(captures) if len(captures) > 1 else members
    if len(members) < 2:
        raise SwaToolsError(
            f"an ensemble needs at least two checkpoints, found only {members[0].path}"
        )
    return members


def _of_one_run(captures: Sequence[Candidate]) -> list[Candidate]:
    """Return the captures of the run that has the most here; the first such run if several do."""
    folders = [one.path.absolute().parent for one in captures]
    folder, n_captures = collections.Counter(folders).most_common(1)[0]
    if n_captures < 2:  # The files do not lie where a run leaves its captures.
        return list(captures)
    return [one for one, its in zip(captures, folders, strict=True) if its == folder]


def _is_triangular(candidate: Candidate) -> bool:
    training = candidate.metadata.training if candidate.metadata is not None else None
    return training is not None and training.schedule.get("name") == "triangular"


def _scored(
    candidates: Sequence[Candidate], built: BuiltModel, *, images: ImageSet, evaluation: Evaluation
) -> tuple[ScoredCheckpoint, ...]:
    labels = real_labels(images) if built.info.head == "imagenet-1k" else None
    return tuple(
        ScoredCheckpoint(
            path=one.path,
            name=one.name,
            digest=one.digest,
            metadata=one.metadata,
            bn=one.bn_state(built.module),
            score=evaluation.scores[one.name],
            real=None
            if labels is None
            else real_accuracy(evaluation.predictions[one.name], evaluation.indices, labels),
        )
        for one in candidates
    )
