"""Files that appear whole or not at all, and tensors in safetensors with JSON beside them.

Nothing is pickled or unpickled here or anywhere else in deepreduce.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from deepreduce.errors import CheckpointError, RunError, RunFolderError

TEMPORARY = ".part"
"""Suffix of a file that is still being written; one that is left over belongs to a killed process."""

_METADATA = "deepreduce"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an `OSError` into one line: `RunError` for a full disk, `RunFolderError` for anything else."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise RunError(
                f"{path} can't be written: {reason}; make room and give the same command again, it will resume"
            ) from error
        raise RunFolderError(f"{path} can't be written: {reason}; choose a folder that you may write to") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: aside, flushed to disk, renamed. Errors are those of `writing`."""
    aside = path.with_name(path.name + TEMPORARY)
    with writing(path):
        try:
            with open(aside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:  # Ctrl-C leaves nothing behind either
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for text in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` for plain values, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises `CheckpointError` that names the file where it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {_line(error)}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Tensors and plain values in one safetensors file, with a checksum of them all."""
    # copies, because safetensors refuses names that share memory, as tied weights do
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    described = {"crc32": _checksum(plain, metadata), "values": metadata}
    content = json.dumps(described, allow_nan=False)
    write_bytes(path, safetensors.torch.save(plain, metadata={_METADATA: content}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote, on the CPU. Raises `CheckpointError` naming the file for any other content."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = (file.metadata() or {}).get(_METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        described = None if content is None else json.loads(content)
    except (OSError, safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {_line(error)}") from error
    if described is None:
        raise CheckpointError(f"{path} was not written by deepreduce")
    match described:
        case {"crc32": checksum, "values": dict(metadata)} if checksum == _checksum(tensors, metadata):
            return tensors, metadata
    raise CheckpointError(f"{path} is corrupt: its checksum does not match")


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> int:
    checksum = zlib.crc32(json.dumps(metadata).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        if tensor.numel():
            checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
