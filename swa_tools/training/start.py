"""Where a run begins or resumes: its images, its weights, and the point to resume from."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from swa_tools.checkpoints import BnInfo, Preprocessing, ViewInfo
from swa_tools.data import ImageSet, map_to_outputs, open_split, training_view
from swa_tools.distributed import Distributed
from swa_tools.errors import TrainingError
from swa_tools.models import (
    BuiltModel,
    ModelChoice,
    create_model,
    has_batchnorm,
    load_checkpoint,
    load_into,
    replace_head,
)
from swa_tools.ranks import together
from swa_tools.run_directory import RunDirectory
from swa_tools.training.description import launcher
from swa_tools.training.options import FinetuneOptions
from swa_tools.training.resume import ResumePoint, load_resume_point

_NO_RUN_ID = ("", "none")
"""What torchrun calls a job without --rdzv-id or --standalone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a run begins.

    Attributes:
        built: The model, on the CPU; rank 0 has its weights, the other ranks only its structure.
        bn: State of its running statistics.
        train, val: The images, with the model's outputs as targets; None for synthetic ones; `val`
            is also None if nothing is validated.
        point: The point of this run to resume from; None at its beginning.
        earlier: The last point of the run that this one continues (`from_run`); None if it
            continues none.
    """

    built: BuiltModel
    bn: BnInfo
    train: ImageSet | None
    val: ImageSet | None
    point: ResumePoint | None
    earlier: ResumePoint | None

    @property
    def epochs_before(self) -> int:
        """Epochs of the runs that this one continues (`from_run`), including begun ones.

        Order and augmentation continue after them instead of repeating.
        """
        if self.point is not None:
            return int(self.point.settings.get("epochs before") or 0)
        if self.earlier is None:
            return 0
        settings = self.earlier.settings
        begun = -(-self.earlier.step // int(settings["steps per epoch"]))
        return int(settings.get("epochs before") or 0) + begun


def is_resumed(options: FinetuneOptions, directory: RunDirectory) -> bool:
    """Tell whether to resume the run in the directory; runs on rank 0.

    Raises:
        SwaToolsError: There is no run, it has nothing to resume from, or it would be overwritten.
    """
    if options.resume and not directory.exists():
        raise TrainingError(
            f"{directory.path}: there is no run to resume; expected {directory.resume.name} in this"
            " folder"
        )
    may_go_on = options.resume or options.resume_if_exists or _is_restart(directory)
    if not (may_go_on and directory.exists()):
        directory.check_free(force=options.force)
        return False
    if directory.resume.exists():
        return True
    if directory.has_results() and not options.force:
        raise TrainingError(
            f"{directory.resume}: there is no point to resume from, but the run has results;"
            " --force removes them and begins it again"
        )
    # It was killed before its first step, so it begins again.
    return False


def open_start(
    options: FinetuneOptions, *, directory: RunDirectory, resuming: bool, context: Distributed
) -> Start:
    """Read images and weights; rank 0 reads the weights, the others build the same network.

    Raises:
        SwaToolsError: On every rank, if anything is wrong on one.
    """
    train = val = None
    if options.synthetic_data is None:
        train = together(context, lambda: open_split("train", options))
        if options.validate_every != "never":
            val = together(context, lambda: open_split("val", options))
    read = together(
        context,
        lambda: _read(options, directory, train, resuming=resuming) if context.is_main else None,
    )
    start = _share(read, context)
    return together(context, lambda: _with_images(start, train, val))


def training_view_of(options: FinetuneOptions, preprocessing: Preprocessing) -> ViewInfo:
    """Return how a run prepares its training images."""
    return training_view(preprocessing, min_area=options.min_crop_area)


def _is_restart(directory: RunDirectory) -> bool:
    """Tell whether torchrun has restarted this process after a failure in the same run."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    found: Any = directory.readable_description().get("launcher")
    own = launcher()
    if own is None or not isinstance(found, dict) or found.get("run_id") != own["run_id"]:
        return False
    return own["run_id"] not in _NO_RUN_ID or found.get("agent") == own["agent"]


def _with_images(start: Start, train: ImageSet | None, val: ImageSet | None) -> Start:
    built = start.built
    if train is not None:
        train = map_to_outputs(train, built.info)
        built = _with_classes(built, train)
    if val is not None:
        val = map_to_outputs(val, built.info)
    return dataclasses.replace(start, built=built, train=train, val=val)


def _read(
    options: FinetuneOptions, directory: RunDirectory, train: ImageSet | None, *, resuming: bool
) -> Start:
    """Build the model with its weights; runs on rank 0."""
    # For random weights and new classifiers.
    torch.manual_seed(options.seed)
    if resuming and directory.resume.exists():
        point = load_resume_point(directory.resume)
        built, bn = _load(directory.start)
        load_into(built.module, point.model, where=str(directory.resume))
        return Start(built=built, bn=bn, train=None, val=None, point=point, earlier=None)
    earlier = None
    if options.from_run is not None:
        earlier = _read_earlier(options, options.from_run)
        run = RunDirectory(options.from_run)
        built, bn = _load(run.start, model=options.model, image_size=options.image_size)
        load_into(built.module, earlier.model, where=str(run.resume))
    elif options.checkpoint is not None:
        built, bn = _load(
            options.checkpoint,
            model=options.model,
            model_kwargs=options.model_kwargs,
            entry=options.entry,
            image_size=options.image_size,
        )
    else:
        built = _create(options)
        bn = BnInfo(state="trained" if has_batchnorm(built.module) else "none")
    if options.new_head:
        built = _with_new_head(built, train)
    if options.drop_path is not None:
        built = _with_drop_path(built, options.drop_path)
    return Start(built=built, bn=bn, train=None, val=None, point=None, earlier=earlier)


def _read_earlier(options: FinetuneOptions, run: Path) -> ResumePoint:
    """Read the end of the run that this one continues, and check that it can be continued."""
    if options.checkpoint is not None:
        raise TrainingError("--from RUN already says where to start; leave out --checkpoint")
    if options.new_head:
        raise TrainingError(
            f"--from {run}: its optimizer state belongs to its own classifier; with --new-head,"
            f" start from its weights alone (--checkpoint {RunDirectory(run).checkpoints}/…)"
        )
    earlier = load_resume_point(RunDirectory(run).resume)
    for name in ("optimizer", "no_decay_norm_bias"):
        found, expected = earlier.settings[name.replace("_", " ")], getattr(options.optimizer, name)
        if found != expected:
            raise TrainingError(
                f"--from {run}: its {name} was {found}, but is {expected} here, so its optimizer"
                " state does not fit; start from its weights alone with --checkpoint"
            )
    return earlier


def _load(path: Path, **arguments: Any) -> tuple[BuiltModel, BnInfo]:
    built, metadata = load_checkpoint(path, ModelChoice(**arguments))
    if metadata is not None:
        return built, metadata.bn
    return built, BnInfo(state="unknown" if has_batchnorm(built.module) else "none")


def _create(options: FinetuneOptions) -> BuiltModel:
    if options.model is None:
        raise TrainingError(
            "no model: name one (torchvision/resnet50, timm/resnet50.tv_in1k, …), or weights that"
            " say which model they belong to (--checkpoint FILE, --from RUN)"
        )
    return create_model(
        options.model,
        pretrained=options.pretrained,
        kwargs=options.model_kwargs,
        image_size=options.image_size,
    )


def _with_new_head(built: BuiltModel, train: ImageSet | None) -> BuiltModel:
    if train is None:
        raise TrainingError(
            "--new-head needs classes, and --synthetic-data has none; leave out one of the two"
        )
    return replace_head(built, train.classes)


def _with_drop_path(built: BuiltModel, rate: float) -> BuiltModel:
    """Rebuild the model with stochastic depth, which has no weights."""
    is_torchvision = built.info.name.startswith("torchvision/")
    name = "stochastic_depth_prob" if is_torchvision else "drop_path_rate"
    info = dataclasses.replace(built.info, kwargs={**built.info.kwargs, name: rate})
    module = create_model(info.name, num_classes=info.num_classes, kwargs=info.kwargs).module
    load_into(module, built.module.state_dict(), where=info.name)
    return dataclasses.replace(built, module=module, info=info)


def _with_classes(built: BuiltModel, train: ImageSet) -> BuiltModel:
    """Add the names of the outputs if the model does not know them."""
    info = built.info
    in_order = train.outputs == tuple(range(info.num_classes))
    if info.classes is not None or info.head != "own" or not in_order:
        return built
    return dataclasses.replace(built, info=dataclasses.replace(info, classes=train.classes))


def _share(start: Start | None, context: Distributed) -> Start:
    """Give every rank what rank 0 has read, except the weights of the model."""
    told: Any = context.broadcast(
        start
        and (start.built.info, start.built.preprocessing, start.bn, start.point, start.earlier)
    )
    if start is not None:
        return start
    info, preprocessing, bn, point, earlier = told
    module = create_model(info.name, num_classes=info.num_classes, kwargs=info.kwargs).module
    built = BuiltModel(module=module, info=info, preprocessing=preprocessing)
    return Start(built=built, bn=bn, train=None, val=None, point=point, earlier=earlier)
