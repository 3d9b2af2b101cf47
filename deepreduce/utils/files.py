"""Write files that appear whole or not at all, and tensors with JSON values in safetensors files.

No file is ever pickled or unpickled.
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
"""Suffix of a file that is being written; a leftover one is from a killed process."""

_METADATA = "deepreduce"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into a one-line `RunError` for a full disk, else into a `RunFolderError`."""
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
    """Write a file whole or not at all: into a temporary file, flushed to disk, then renamed.

    Raises the errors of `writing`.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # also on Ctrl-C
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a rename in the folder to disk, on systems that can open a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, content: str) -> None:
    """Write text in UTF-8 as `write_bytes` does."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON, keys in the order given, as `write_bytes` does."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read the value of a JSON file. Raises `CheckpointError`, with the path, if it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {_line(error)}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and plain values to one safetensors file, with a checksum of both, as `write_bytes` does."""
    # copies, because safetensors refuses tensors that share memory, as tied weights do
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    described = {"crc32": _checksum(plain, metadata), "values": metadata}
    content = json.dumps(described, allow_nan=False)
    write_bytes(path, safetensors.torch.save(plain, metadata={_METADATA: content}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the plain values of `write_tensors`.

    Raises `CheckpointError`, with the path, for a file that is unreadable, corrupt or not of `write_tensors`.
    """
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
