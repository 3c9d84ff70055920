"""Points, directions and distances in the space of parameters, streamed from checkpoints.

Parameters are all tensors of ordinary numbers except running statistics. Everything is computed in
float64, tensor by tensor: one tensor of each checkpoint is in memory at a time.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from swa_tools.averaging import Uniform, plan_average
from swa_tools.averaging.rules import RUNNING_STATISTICS
from swa_tools.checkpoints import Checkpoint
from swa_tools.checkpoints.dtypes import DTYPES, numpy_dtype
from swa_tools.errors import CheckpointError

Array = npt.NDArray[np.float64]

Tensors = Callable[[], Iterator[tuple[str, np.ndarray]]]
"""A point: each call yields all tensors of its checkpoint, by name, one after the other."""

COLLINEAR = 1e-4
"""A third checkpoint spans no plane with two others if its distance from the line through them is
at most this share of its distance from the first."""


def parameter_names(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """Return the names of the parameters, in the order of the first checkpoint.

    Raises:
        CheckpointError: The checkpoints do not belong together: names or shapes differ.
    """
    # Distances do not depend on dtypes; with `dtype` given, these may differ.
    plan = plan_average(checkpoints, Uniform(), dtype="F32")
    return tuple(
        tensor.name
        for tensor in plan.tensors
        if tensor.action == "average" and tensor.name.rpartition(".")[2] not in RUNNING_STATISTICS
    )


def read_wide(checkpoint: Checkpoint, name: str) -> Array:
    """Return a tensor in float64; complex numbers as pairs along a last axis."""
    array = checkpoint.read(name)
    if array.dtype.kind == "c":
        array = array.view(np.float32).reshape(*array.shape, 2)
    return array.astype(np.float64)


def read_block(checkpoint: Checkpoint, name: str, first: int, n_elements: int) -> Array:
    """Return some consecutive elements of a tensor in float64; complex numbers as pairs."""
    dtype = numpy_dtype(checkpoint.tensors[name].dtype)
    data = bytearray(n_elements * dtype.itemsize)
    checkpoint.read_into(name, first * dtype.itemsize, memoryview(data))
    array = np.frombuffer(data, dtype)
    return (array.view(np.float32) if dtype.kind == "c" else array).astype(np.float64)


def own_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a checkpoint, with floating point numbers of any format in float64."""
    yield from _rest(checkpoint, ())


def norm(checkpoint: Checkpoint, names: Sequence[str]) -> float:
    """Return the Euclidean norm over the named tensors.

    Raises:
        CheckpointError: They contain NaN or Inf.
    """
    result = math.sqrt(math.fsum(_dot(array, array) for array in _each(checkpoint, names)))
    if not math.isfinite(result):
        raise CheckpointError(
            f"{checkpoint.path}: its parameters contain NaN or Inf; choose another checkpoint"
        )
    return result


def distance(one: Checkpoint, other: Checkpoint, names: Sequence[str]) -> float:
    """Return the Euclidean distance between two checkpoints over the named tensors."""
    total = []
    for name in names:
        difference = read_wide(one, name) - read_wide(other, name)
        total.append(_dot(difference, difference))
    return math.sqrt(math.fsum(total))


def _each(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[Array]:
    return (read_wide(checkpoint, name) for name in names)


def _dot(one: Array, other: Array) -> float:
    return float(np.vdot(one, other))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Where a checkpoint lies relative to a plane.

    Attributes:
        x, y: Coordinates of the nearest point of the plane, along u and v.
        distance: Distance from the plane.
    """

    x: float
    y: float
    distance: float


class Plane:
    """The plane through three checkpoints A, B, C, with A at its origin.

    The orthonormal basis comes from Gram and Schmidt (footnote 1 of the paper):
    u = (B − A)/‖B − A‖, and v is (C − A) − ⟨C − A, u⟩u divided by its norm. Neither is kept in
    memory: the three checkpoints are read again for every point.

    Args:
        a, b, c: Open checkpoints of one model.

    Attributes:
        names: The parameters.
        corners: Coordinates of A, B and C.

    Raises:
        CheckpointError: The checkpoints do not belong together, contain NaN or Inf, or lie on a
            line.
    """

    def __init__(self, a: Checkpoint, b: Checkpoint, c: Checkpoint) -> None:
        self._sources = (a, b, c)
        self.names = parameter_names(self._sources)
        for source in self._sources:
            norm(source, self.names)  # refuses what is not finite
        self._length_u = distance(a, b, self.names)
        if self._length_u == 0:
            raise CheckpointError(
                f"{b.path}: has the same parameters as {a.path}; a plane needs three different"
                " checkpoints"
            )
        self._along = math.fsum(_dot(c - a, u) for a, u, c in self._parts())
        # In a separate pass: computed as a difference of squares, it would lose its digits.
        self._length_v = math.sqrt(
            math.fsum(_dot(w, w) for w in (c - a - self._along * u for a, u, c in self._parts()))
        )
        if self._length_v <= COLLINEAR * math.hypot(self._along, self._length_v):
            raise CheckpointError(
                f"{c.path}: lies on the line through {a.path} and {b.path}; choose a third"
                " checkpoint off that line"
            )
        self.corners = ((0.0, 0.0), (self._length_u, 0.0), (self._along, self._length_v))

    def tensors(self, x: float, y: float) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the point A + x·u + y·v; tensors that are not parameters come from A."""
        a, _, _ = self._sources
        parameters = zip(self.names, self._basis(), strict=True)
        for name, (origin, u, v) in parameters:
            yield name, _narrow(origin + x * u + y * v, a, name)
        yield from _rest(a, self.names)

    def project(self, checkpoint: Checkpoint) -> Projection:
        """Return where another checkpoint of the model lies.

        Raises:
            CheckpointError: The checkpoint does not belong with the three, or contains NaN or Inf.
        """
        parameter_names([*self._sources, checkpoint])
        norm(checkpoint, self.names)
        x, y, left = [], [], []
        for name, (a, u, v) in zip(self.names, self._basis(), strict=True):
            difference = read_wide(checkpoint, name) - a
            x.append(_dot(difference, u))
            y.append(_dot(difference, v))
        found = (math.fsum(x), math.fsum(y))
        for name, (a, u, v) in zip(self.names, self._basis(), strict=True):
            off = read_wide(checkpoint, name) - a - found[0] * u - found[1] * v
            left.append(_dot(off, off))
        return Projection(x=found[0], y=found[1], distance=math.sqrt(math.fsum(left)))

    def _parts(self) -> Iterator[tuple[Array, Array, Array]]:
        """Yield A, u and C of each parameter."""
        for arrays in zip(*(_each(one, self.names) for one in self._sources), strict=True):
            a, b, c = arrays
            yield a, (b - a) / self._length_u, c

    def _basis(self) -> Iterator[tuple[Array, Array, Array]]:
        """Yield A, u and v of each parameter."""
        for a, u, c in self._parts():
            yield a, u, (c - a - self._along * u) / self._length_v


def line_tensors(
    start: Checkpoint, end: Checkpoint, names: Sequence[str], t: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (1 − t)·start + t·end; tensors that are not parameters come from the start."""
    for name in names:
        a, b = read_wide(start, name), read_wide(end, name)
        yield name, _narrow(a + t * (b - a), start, name)
    yield from _rest(start, names)


def ray_tensors(
    base: Checkpoint, direction: Mapping[str, Array], t: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield base + t·direction; tensors that are not parameters come from the base."""
    for name, part in direction.items():
        yield name, _narrow(read_wide(base, name) + t * part, base, name)
    yield from _rest(base, list(direction))


def random_direction(
    checkpoint: Checkpoint, names: Sequence[str], *, seed: int, number: int
) -> dict[str, Array]:
    """Draw a direction that is uniform on the unit sphere of all parameters jointly.

    It is one Gaussian over all parameters, divided by its global norm: no filter normalisation. It
    depends on the seed, its number, and the names and shapes of the parameters, and takes 8 bytes
    per parameter.

    Args:
        checkpoint: Gives the shapes.
        names: The parameters.
        seed: Any integer, taken modulo 2^64.
        number: Which direction of this seed, from 0.
    """
    key = np.array([seed % 2**64, number], dtype=np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))
    drawn = {}
    for name in sorted(names):
        info = checkpoint.tensors[name]
        shape = (*info.shape, 2) if info.dtype == "C64" else info.shape
        drawn[name] = np.asarray(random.standard_normal(shape))
    length = math.sqrt(math.fsum(_dot(part, part) for part in drawn.values()))
    for part in drawn.values():
        part /= length
    return drawn


def _narrow(array: Array, checkpoint: Checkpoint, name: str) -> np.ndarray:
    """Turn pairs back into complex numbers if the checkpoint's tensor is complex."""
    if checkpoint.tensors[name].dtype == "C64":
        return array.view(np.complex128)[..., 0]
    return array


def _rest(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    taken = set(names)
    for name, info in checkpoint.tensors.items():
        if name in taken:
            continue
        if DTYPES[info.dtype].averaged:
            yield name, _narrow(read_wide(checkpoint, name), checkpoint, name)
        else:
            yield name, checkpoint.read(name)
