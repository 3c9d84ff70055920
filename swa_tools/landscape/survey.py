"""Score many points: dealt to the ranks, saved when they are done, with progress shown."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swa_tools.checkpoints import Checkpoint
from swa_tools.data import ImageSet
from swa_tools.distributed import Distributed
from swa_tools.landscape.geometry import Tensors
from swa_tools.landscape.measurement_files import check_numbers, write_numbers
from swa_tools.landscape.options import SurfaceOptions
from swa_tools.landscape.points import FIELDS, SUFFIX, OtherWorkError, PointFile, PointScore
from swa_tools.landscape.surface import Surface
from swa_tools.listening import Listener
from swa_tools.measurements import describe


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point to score.

    Attributes:
        name: The point's name, unique within its work.
        tensors: Gives its state dict.
        is_checkpoint: Whether the point is itself a checkpoint, which must have a value.
    """

    name: str
    tensors: Tensors
    is_checkpoint: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One piece of work: the images, how points are scored, by which ranks, and for which output.

    Attributes:
        output: The `.npz` to write; its description goes next to it, as do the points that are
            already done.
        train: Training images, their classes not mapped yet.
        val: Validation images, their classes not mapped yet.
        options: How points are scored.
        context: The ranks; each scores its own points on all images.
        listener: Who hears how the work goes, on rank 0.
        command: How to reproduce the numbers, for the description.
        force: Whether existing outputs may be replaced, as well as the points of other work that
            was begun for the same output.
    """

    output: Path
    train: ImageSet
    val: ImageSet
    options: SurfaceOptions
    context: Distributed
    listener: Listener = dataclasses.field(default_factory=Listener)
    command: str | None = None
    force: bool = False

    def check_output(self) -> None:
        """Check early that the output can be written."""
        check_numbers(self.output, force=self._replaces)

    def open_surface(self, checkpoint: Path) -> Surface:
        """Build the network that the checkpoint belongs to, on this rank's device."""
        return Surface(
            checkpoint,
            train=self.train,
            val=self.val,
            options=self.options,
            device=self.context.device,
        )

    def decayed(self, checkpoint: Checkpoint, names: Sequence[str]) -> frozenset[str]:
        """Return the parameters that count in the L2 term."""
        all_decayed = not self.options.no_decay_norm_bias
        return frozenset(
            name for name in names if all_decayed or len(checkpoint.tensors[name].shape) > 1
        )

    def score(
        self,
        kind: str,
        points: Sequence[Point],
        *,
        surface: Surface,
        decayed: frozenset[str],
        task: Mapping[str, Any],
    ) -> list[PointScore]:
        """Score points, each on one rank, and return all scores on every rank, in their order.

        Points that an earlier try finished before it was killed are not scored again.

        Args:
            kind: Of the numbers; what the listener hears the work called.
            points: In the order of the work.
            surface: This rank's.
            decayed: From `decayed`.
            task: What the points are, as JSON values.

        Raises:
            SwaToolsError: As from `Surface.score` and `PointFile`.
        """
        task = {**task, **surface.describe()}
        context, path = self.context, self._points_path
        done: dict[str, PointScore] = {}
        if context.is_main:
            done = self._begin(path, task, replace=self.force).done
        done = context.broadcast(done)
        file = self._begin(path, task)  # on another machine's disk it may be missing
        left = [point for point in points if point.name not in done]
        mine = left[context.rank :: context.world_size]
        if context.is_main:
            self._tell(n_points=len(points), n_left=len(left), surface=surface)
        listener = self.listener if context.is_main else Listener()
        scores = {}
        with listener.on_stage(kind, len(mine) * surface.n_images) as advance:
            for point in mine:
                scores[point.name] = surface.score(
                    point.tensors(),
                    decayed=decayed,
                    allow_overflow=not point.is_checkpoint,
                    advance=advance,
                )
                file.add(point.name, scores[point.name])
        for part in context.gather(scores):
            done.update(part)
        if surface.n_skipped:
            listener.on_notice(f"{surface.n_skipped} unreadable images were left out")
        return [done[point.name] for point in points]

    def write(
        self,
        kind: str,
        arrays: Mapping[str, np.ndarray],
        *,
        description: Mapping[str, Any],
        surface: Surface,
    ) -> None:
        """Write the numbers on rank 0 and remove the file of points, which they now contain."""
        if not self.context.is_main:
            return
        write_numbers(
            self.output,
            arrays=arrays,
            description=describe(
                kind,
                command=self.command,
                **description,
                **surface.describe(),
                device=str(self.context.device),
            ),
            force=self._replaces,
        )
        self._points_path.unlink(missing_ok=True)

    @property
    def _replaces(self) -> bool:
        """Whether files may be replaced: a killed command may leave a description alone."""
        return self.force or (self._points_path.exists() and not self.output.exists())

    @property
    def _points_path(self) -> Path:
        return self.output.with_name(self.output.name + SUFFIX)

    @staticmethod
    def _begin(path: Path, task: Mapping[str, Any], *, replace: bool = False) -> PointFile:
        try:
            file = PointFile(path, task)
        except OtherWorkError:
            if not replace:
                raise
            path.unlink()
            file = PointFile(path, task)
        file.begin()
        return file

    def _tell(self, *, n_points: int, n_left: int, surface: Surface) -> None:
        if n_left < n_points:
            self.listener.on_notice(
                f"{self._points_path}: {n_points - n_left} of {n_points} points are already done"
            )
        for line in surface.notices:
            self.listener.on_notice(line)
        if surface.has_batchnorm and not self.options.bn_samples:
            self.listener.on_notice(
                "--bn-samples 0: every point uses the BatchNorm statistics of the first checkpoint,"
                " so the picture is wrong everywhere else"
            )


def arrays_of(scores: Sequence[PointScore], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return scores as arrays of a shape, and `train_objective` (loss plus L2 term)."""
    arrays: dict[str, np.ndarray] = {
        name: np.array([getattr(score, name) for score in scores]).reshape(shape) for name in FIELDS
    }
    arrays["train_objective"] = arrays["train_loss"] + arrays["l2"]
    bits = np.stack([np.packbits(score.is_correct) for score in scores])
    arrays["is_correct_bits"] = bits.reshape(*shape, -1)
    return arrays
