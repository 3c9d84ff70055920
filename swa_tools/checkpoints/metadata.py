"""What a checkpoint written by swa-tools says about itself.

The `__metadata__` of a safetensors file holds `format: "pt"` and one key, `swa_tools`, with one
JSON document. One key and sorted fields, no times, hosts or folders: the same inputs give the
same bytes.
"""

import dataclasses
import json
import reprlib
from typing import Any, Literal

from swa_tools.errors import CheckpointError
from swa_tools.json_documents import MismatchError, from_json

METADATA_KEY = "swa_tools"

SCHEMA = 1
"""Version of the document. Readers accept it and everything older."""

Kind = Literal["checkpoint", "average", "soup"]
BnState = Literal["none", "trained", "stale", "updated", "unknown"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Which network the tensors belong to.

    Attributes:
        name: `torchvision/NAME` or `timm/NAME[.TAG]`, as `models.create_model` takes it.
        kwargs: Further arguments of the library's constructor.
        num_classes: Outputs of the classifier.
        classes: The folder name of each output, in their order; None if not known.
        head: `own` for a classifier over `classes`; `imagenet-1k` for one over the 1000 classes.
    """

    name: str
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_classes: int
    classes: tuple[str, ...] | None = None
    head: Literal["own", "imagenet-1k"] = "own"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input in evaluation.

    Attributes:
        image_size: Height and width of the input, in pixels.
        resize: Length in pixels that the image is resized to before the crop: the shorter side,
            or both sides where `crop` is `squash`.
        crop: `center`, `squash` (timm: ignore the aspect ratio) or `border` (timm: pad to fit).
        interpolation: `bilinear`, `bicubic`, `nearest`, …, antialiased as PIL does it.
        mean, std: Of the channels (R, G, B), for values in [0, 1].
    """

    image_size: int
    resize: int
    crop: Literal["center", "squash", "border"]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ViewInfo:
    """How an image becomes the network's input in training, or in a recompute of BatchNorm.

    Attributes:
        size: Height and width of the input, in pixels.
        crop: `random-resized`, as torchvision's RandomResizedCrop; or `evaluation`: as the
            file's `preprocessing` says, and nothing below counts.
        min_area: Area of the smallest random crop, as a part of the image's.
        flip: Probability of a horizontal flip.
        interpolation: As in `Preprocessing`.
    """

    size: int
    crop: Literal["random-resized", "evaluation"]
    min_area: float | None = None
    flip: float | None = None
    interpolation: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """The images that a run trained on, and how it dealt them out.

    Where they lie on the disk is in the run's `run.json`.

    Attributes:
        n_samples: Number of images.
        digest: Digest of their names; None for synthetic images.
        batch_size: Images that BatchNorm saw at a time: a rank's share of a batch, or the piece of
            it that is computed at once; with SyncBatchNorm those of all ranks.
        seed: Seed of their order and augmentation.
    """

    n_samples: int
    digest: str | None = None
    batch_size: int
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BnInfo:
    """Where the running statistics come from.

    Attributes:
        state: `none` (the model keeps none), `trained`, `stale` (averaged since), `updated`
            (recomputed for these weights) or `unknown` (somebody else's file).
        estimator: `population`, `batch-mean` or `sample-weighted`, once updated.
        n_samples: Images that the recompute saw.
        batch_size: Images in its batches.
        view: How they were prepared; None in files of version 0.1.
        train_mode: Whether the whole model was in train mode, dropout and all.
        seed: Of the subset, the order and everything else that was drawn.
        data_digest: Digest of the names of these images.
    """

    state: BnState
    estimator: str | None = None
    n_samples: int | None = None
    batch_size: int | None = None
    view: ViewInfo | None = None
    train_mode: bool | None = None
    seed: int | None = None
    data_digest: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingInfo:
    """The moment of the run at which the checkpoint was taken.

    Attributes:
        epoch: Passes over the training images completed; may be a fraction.
        step: Optimizer steps completed.
        cycle: Number of the cycle that it is the minimum of, from 1; None outside of cycles.
        lr: Learning rate of the last step.
        schedule: Name and constants of the schedule.
        seed: Seed of the run.
    """

    epoch: float
    step: int
    cycle: int | None = None
    lr: float
    schedule: dict[str, Any]
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """One source of an average.

    Attributes:
        name: File name without its folder.
        digest: Content digest of its tensors, `xxh3-128:…`.
        weight: Its coefficient; all of an average's add up to 1.
        n: How many captures it stands for itself.
    """

    name: str
    digest: str
    weight: float
    n: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AverageInfo:
    """How an average came about.

    Attributes:
        include_init: Whether the starting point ŵ counts once, as Algorithm 1 prints it.
        weighting: `uniform`, `weights`, `ema` or `interpolate`.
        sources: What went in, in its order.
        only, exclude, from_last: Patterns of names: the tensors that alone were taken, that were
            left out, and that are the last source's.
    """

    include_init: bool
    weighting: str
    sources: tuple[SourceInfo, ...]
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    from_last: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMetadata:
    """The whole document.

    Attributes:
        kind: What the file is.
        model: Which network it belongs to; None if nobody said.
        preprocessing: How images are prepared in evaluation.
        view: How the run that it comes from prepared them in training; of an average, the last
            source's. None if it does not come from a run.
        data: The images of that run, under the same rule.
        bn: State of the running statistics.
        training: The moment of a checkpoint.
        average: How an average came about.
        swa_tools: The version that wrote the file.
    """

    kind: Kind
    model: ModelInfo | None = None
    preprocessing: Preprocessing | None = None
    view: ViewInfo | None = None
    data: DataInfo | None = None
    bn: BnInfo
    training: TrainingInfo | None = None
    average: AverageInfo | None = None
    swa_tools: str

    def to_json(self) -> str:
        """Return the document with sorted keys and no spaces."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_metadata(text: str, *, where: str) -> CheckpointMetadata:
    """Parse the document under the metadata key `swa_tools`; unknown fields are ignored.

    Args:
        text: The JSON document.
        where: The file that it stands in, for the error.

    Raises:
        CheckpointError: It is no such document, or a newer version of it.
    """
    try:
        document = json.loads(text)
        # Whatever is read must be fit to be written again: no NaN, no lone surrogates.
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: its swa_tools metadata is not JSON: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is int and schema > SCHEMA:
        raise CheckpointError(
            f"{where}: its metadata has schema {reprlib.repr(schema)}, this version reads up to"
            f" {SCHEMA}; update swa-tools"
        )
    if type(schema) is not int or schema != SCHEMA:
        raise CheckpointError(
            f"{where}: its swa_tools metadata has no schema: expected {SCHEMA}, found"
            f" {reprlib.repr(schema)}"
        )
    try:
        return from_json(document, CheckpointMetadata, name="metadata")
    except MismatchError as error:
        raise CheckpointError(f"{where}: broken swa_tools metadata: {error}") from error
