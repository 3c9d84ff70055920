"""Save the score of each point when it is done, so that work that was killed resumes where it was.

The scores go into a file of JSON lines next to the output. The first line says which work it
belongs to, every other line holds one finished point. Lines are appended whole; one that was cut
off is not counted.
"""

import base64
import dataclasses
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from swa_tools.errors import OutputError

SUFFIX = ".points"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PointScore:
    """What was measured at a point; NaN where the network overflows.

    Attributes:
        train_loss: Mean cross entropy on the training images, in nats, without the L2 term.
        l2: λ/2·‖w‖² over the decayed parameters.
        train_error: Share of training images labelled wrong, in percent.
        test_loss: Mean cross entropy on the validation images, in nats.
        test_error: Share of validation images labelled wrong, in percent.
        is_correct: For each validation image, whether it is labelled right, (N,).
    """

    train_loss: float
    l2: float
    train_error: float
    test_loss: float
    test_error: float
    is_correct: npt.NDArray[np.bool_]


FIELDS = ("train_loss", "l2", "train_error", "test_loss", "test_error")


class OtherWorkError(OutputError):
    """A file of points that belongs to other work."""


class PointFile:
    """The finished points of one piece of work.

    Args:
        path: The file; it need not exist.
        task: Everything that the scores depend on, as JSON values.

    Attributes:
        done: Scores by the names of the points.

    Raises:
        OtherWorkError: The file belongs to other work.
        OutputError: The file cannot be read.
    """

    def __init__(self, path: Path, task: Mapping[str, Any]) -> None:
        self.path = path
        text = json.dumps(task, sort_keys=True)
        self._head = {"task": f"xxh3-128:{xxhash.xxh3_128_hexdigest(text.encode())}"}
        self.done: dict[str, PointScore] = {}
        lines = self._read()
        self._has_head = bool(lines)
        if lines and lines[0] != self._head:
            raise OtherWorkError(
                f"{path}: holds points of another picture that was begun here; choose another -o,"
                " or start over with --force"
            )
        for line in lines:
            if "point" not in line:
                continue
            self.done[line["point"]] = _decode(line)

    def add(self, name: str, score: PointScore) -> None:
        """Append a point; it is on disk when this returns. Any number of ranks may append.

        Raises:
            OutputError: The file cannot be written.
        """
        self._append({"point": name, **_encode(score)})
        self.done[name] = score

    def begin(self) -> None:
        """Write the first line if it is missing; one rank does so before any rank appends."""
        if not self._has_head:
            self._append(self._head)

    def _append(self, document: Mapping[str, Any]) -> None:
        # The leading newline separates it from a line that was cut off.
        data = f"\n{json.dumps(document)}\n".encode()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot write this file: {error.strerror}") from error

    def _read(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"{self.path}: cannot read this file: {error.strerror}") from error
        found = []
        for line in text.split("\n"):
            try:
                document = json.loads(line)
            except ValueError:
                continue  # a line that was cut off, or the empty line between two
            if isinstance(document, dict):
                found.append(document)
        return found


def _encode(score: PointScore) -> dict[str, Any]:
    packed = np.packbits(score.is_correct).tobytes()
    return {
        **{name: getattr(score, name) for name in FIELDS},
        "n_test": len(score.is_correct),
        "is_correct": base64.b85encode(packed).decode(),
    }


def _decode(line: Mapping[str, Any]) -> PointScore:
    packed = np.frombuffer(base64.b85decode(line["is_correct"]), np.uint8)
    return PointScore(
        **{name: line[name] for name in FIELDS},
        is_correct=np.unpackbits(packed, count=line["n_test"]).astype(np.bool_),
    )
