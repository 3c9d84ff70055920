"""Open a checkpoint, whatever it is stored as, and read its tensors piece by piece."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from swa_tools.checkpoints.digest import BLOCK_ELEMENTS, block_hash, combine
from swa_tools.checkpoints.dtypes import DTYPES, numpy_dtype
from swa_tools.checkpoints.files import SafetensorsFile, TensorFile, open_input
from swa_tools.checkpoints.foreign.dcp_folder import DcpFolder, is_dcp_folder
from swa_tools.checkpoints.foreign.safetensors_pieces import (
    SHARDING_KEY,
    SafetensorsPieces,
    has_safetensors_pieces,
)
from swa_tools.checkpoints.foreign.torch_file import TorchFile
from swa_tools.checkpoints.foreign.torch_format import ZIP_START
from swa_tools.checkpoints.header import JSON_BLANKS, PREFIX_BYTES
from swa_tools.checkpoints.metadata import METADATA_KEY, CheckpointMetadata, parse_metadata
from swa_tools.checkpoints.names import plain_names
from swa_tools.checkpoints.remote import RemotePath, as_path, in_parallel
from swa_tools.checkpoints.remote_file import read_ahead
from swa_tools.checkpoints.sharded import SHARD, Shard, open_index
from swa_tools.errors import CheckpointError

MAX_BLANKS = 512
"""How many bytes are looked at for the beginning of a header without the name's help."""

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "open_clip_model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "adapter_model.bin",
)
"""The weights in a model folder, as the libraries of Hugging Face name them; the first counts."""


class Checkpoint:
    """A set of weights: a safetensors file, a sharded one, a folder, or a pickled file.

    A context manager; leaving it closes the files.

    Attributes:
        path: As it was given.
        name: The path's last part, for messages and metadata.
        tensors: dtype, shape and size by name, prefixes of wrappers removed from the names.
        metadata: What swa-tools wrote about it; None for somebody else's file.
        ties: Names that stand for another tensor's, as safetensors' `save_model` records them.
        numbers: What stands beside the tensors and is a number: `epoch`, `best_acc1`, …
        notes: What was changed in reading it, for the user to know.
    """

    def __init__(
        self, path: Path, files: Iterable[TensorFile], *, keep_names: bool = False
    ) -> None:
        self.path = path
        name = path.resolve().name if path.name in ("", ".", "..") else path.name
        self.name = os.fsencode(name).decode(errors="replace")  # a name may be any bytes
        self._files = tuple(files)
        stored = {name: i for i, file in enumerate(self._files) for name in file.tensors}
        names, prefix, notes = plain_names(
            stored, prefix=self._files[0].prefix, keep_names=keep_names
        )
        self.notes = (*notes, *(note for file in self._files for note in file.notes))
        if SHARD.search(self.name):
            self.notes += ("one piece of a sharded checkpoint; its index stands for the whole",)
        self._places = {name: (stored[old], old) for name, old in names.items()}
        self.tensors = {
            name: self._files[i].tensors[old] for name, (i, old) in self._places.items()
        }
        header = {key: text for file in self._files for key, text in file.metadata.items()}
        ties = {k.removeprefix(prefix): v.removeprefix(prefix) for k, v in header.items()}
        self.ties = {
            name: target
            for name, target in ties.items()
            if target in self.tensors and name not in self.tensors
        }
        self.numbers = self._files[0].numbers
        self.metadata: CheckpointMetadata | None = None
        if METADATA_KEY in header:
            self.metadata = parse_metadata(header[METADATA_KEY], where=str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def share_layout(self, other: "Checkpoint") -> None:
        """Keep what both say of names and places in memory once; for many of one model."""
        files, places = other._files, other._places  # noqa: SLF001  # of the same class
        for mine, theirs in zip(self._files, files, strict=False):
            if mine.tensors == theirs.tensors:
                mine.tensors = theirs.tensors
        if self.tensors == other.tensors and self._places == places:
            self.tensors, self._places = other.tensors, places

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is stored in."""
        return tuple(file.path for file in self._files)

    @property
    def n_bytes(self) -> int:
        """Size of all tensors together."""
        return sum(info.n_bytes for info in self.tensors.values())

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of a tensor, from its byte `offset` on.

        Safe in several threads at once.

        Raises:
            CheckpointError: The file ends too early, or the disk fails.
        """
        i, stored = self._places[name]
        file = self._files[i]
        try:
            file.read_into(stored, offset, buffer)
        except OSError as error:
            raise CheckpointError(
                f"{file.path}: cannot read tensor {name!r}: {error.strerror}"
            ) from error

    def read_bytes(self, name: str) -> bytearray:
        """Return the bytes of a tensor."""
        data = bytearray(self.tensors[name].n_bytes)
        self.read_into(name, 0, memoryview(data))
        return data

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as an array of its shape and dtype (ml_dtypes' for bfloat16, float8).

        Raises:
            CheckpointError: It cannot be read, or NumPy has no such dtype (packed F4 and F6).
        """
        info = self.tensors[name]
        return np.frombuffer(self.read_bytes(name), numpy_dtype(info.dtype)).reshape(info.shape)

    def will_read(self, parts: Iterable[tuple[str, int, int]], *, share: int = 1) -> None:
        """Read ahead, where the checkpoint lies on a server.

        Args:
            parts: What will be read, each once and in this order: tensor, byte offset in it, number
                of bytes.
            share: How many checkpoints are read at the same time.
        """
        if not isinstance(self.path, RemotePath):
            return
        places = ((*self._places[name], offset, n_bytes) for name, offset, n_bytes in parts)
        spans = (self._files[i].place(name, start, n_bytes) for i, name, start, n_bytes in places)
        read_ahead([span for span in spans if span is not None], share=share)

    def will_read_all(self) -> None:
        """Read ahead all tensors, in their order; see `will_read`."""
        self.will_read((name, 0, info.n_bytes) for name, info in self.tensors.items())

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file is not what it was when it was opened."""
        if isinstance(self.path, RemotePath):
            in_parallel(lambda file: file.check_unchanged(), self._files)
            return
        for file in self._files:
            file.check_unchanged()

    def digest(self) -> str:
        """Read everything and return the content digest (see `checkpoints.digest`)."""
        buffer = memoryview(bytearray(BLOCK_ELEMENTS * 8))
        found = {}
        self.will_read_all()
        for name, info in self.tensors.items():
            total = 0
            step = BLOCK_ELEMENTS * DTYPES[info.dtype].bits // 8
            for index, offset in enumerate(range(0, info.n_bytes, step)):
                block = buffer[: min(step, info.n_bytes - offset)]
                self.read_into(name, offset, block)
                total += block_hash(block, index)
            found[name] = (info.dtype, info.shape, total)
        self.check_unchanged()
        return combine(found)


def open_checkpoint(
    path: str | Path, *, entry: str | None = None, keep_names: bool = False
) -> Checkpoint:
    """Open a checkpoint for reading; only headers are read here.

    Args:
        path: Path or URL of a `.safetensors` file; a sharded `*.index.json`; a folder with one of
            them, as Hugging Face and timm write it; a folder of `torch.distributed.checkpoint`; or
            a file of `torch.save` (`.pth`, `.pt`, `.pth.tar`, `.bin`, `.ckpt`). The content
            decides, not the name. Nothing in it is run.
        entry: Which set of weights to take from a pickled file that holds several: a key such as
            `state_dict_ema`, or a path such as `agents.0.q`.
        keep_names: Whether to leave the names of tensors as they are in the file, wrappers'
            prefixes included.

    Raises:
        CheckpointError: It is missing, damaged, of another format, or ambiguous.
    """
    path = as_path(path)
    is_remote = isinstance(path, RemotePath)
    if not is_remote and is_dcp_folder(path):
        return Checkpoint(path, [DcpFolder(path, entry=entry)], keep_names=keep_names)
    if not is_remote and has_safetensors_pieces(path):
        return Checkpoint(path, [SafetensorsPieces(path)], keep_names=keep_names)
    is_folder = path.is_dir() if is_remote else os.path.isdir(path)
    target = _file_in_folder(path) if is_folder else path
    if target.name.endswith(".index.json"):
        with ExitStack() as stack:

            def open_shard(shard: Shard) -> TensorFile:
                file = _open_file(shard.path, None)
                stack.callback(file.close)
                shard.check(file.tensors)
                return file

            index = open_index(target)
            shards = in_parallel(open_shard, index) if is_remote else [*map(open_shard, index)]
            checkpoint = Checkpoint(path, shards, keep_names=keep_names)
            stack.pop_all()
            return checkpoint
    file = _open_file(target, entry)
    try:
        return Checkpoint(path, [file], keep_names=keep_names)
    except BaseException:
        file.close()
        raise


def _open_file(path: Path, entry: str | None) -> TensorFile:
    if not is_safetensors(path):
        return TorchFile(path, entry=entry)
    if entry is not None:
        raise CheckpointError(
            f"{path}: a safetensors file holds one set of weights; leave out --entry {entry}"
        )
    file = SafetensorsFile(path)
    if SHARDING_KEY in file.metadata:
        file.close()
        raise CheckpointError(
            f"{path}: one rank's piece of the tensors of a checkpoint; give its folder, which has"
            " the others"
        )
    return file


def _file_in_folder(folder: Path) -> Path:
    is_remote = isinstance(folder, RemotePath)
    names = folder.names() if isinstance(folder, RemotePath) else []
    for name in FOLDER_FILES:
        if name in names or (not is_remote and os.path.lexists(folder / name)):
            return folder / name
    if not is_remote and not os.access(folder, os.X_OK):
        raise CheckpointError(f"{folder}: no permission to look into this folder")
    raise CheckpointError(
        f"{folder}: no weights in this folder: expected {', '.join(FOLDER_FILES)}"
    )


def is_safetensors(path: Path) -> bool:
    """Tell by a file's name, or else its first bytes, whether it is safetensors.

    Raises:
        CheckpointError: It cannot be read.
    """
    if path.suffix == ".safetensors":
        return True
    with open_input(path) as file:
        buffer = bytearray(min(PREFIX_BYTES + MAX_BLANKS + 1, file.n_bytes))
        try:
            file.read_at(0, memoryview(buffer))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
    start = bytes(buffer)
    header = start[PREFIX_BYTES:].lstrip(JSON_BLANKS)
    return header.startswith(b"{") and not start.startswith(ZIP_START)
