"""Write files that appear whole or not at all, and tensors with JSON values in safetensors files.

No file is ever pickled or unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from deepreduce.errors import CheckpointError, RunError, RunFolderError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open can't be removed
    fcntl = None  # type: ignore[assignment]

_PARTIAL = re.compile(r"\.deepreduce-[0-9a-f]{32}\.part")
"""Names of files that are being written: no user's file has one, and nobody knows one to plant a link there."""

_METADATA = "deepreduce"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REPAIRS = {
    errno.ENOENT: "make the folder first, or choose one that exists",
    errno.ENOTDIR: "choose another folder",
    errno.EISDIR: "it is a folder, so give another name",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "it is a link; remove it, or give another name",
    errno.EIO: "choose a folder on another disk",
    errno.EROFS: "choose a folder on a disk that may be written to",
}
_MAY_NOT = "choose a folder that you may write to"
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES, errno.EPERM)
"""Errors of file systems that can't flush a folder, which is no reason not to write there."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into one line with the path, the reason and a repair.

    Raises `RunError` for a full disk, else `RunFolderError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        if error.errno in _FULL:
            raise RunError(
                f"{path} can't be written: {reason}; make room and give the same command again, it will resume"
            ) from error
        raise RunFolderError(
            f"{path} can't be written: {reason}; {_REPAIRS.get(error.errno or 0, _MAY_NOT)}"
        ) from error


class StagedFile:
    """A file under a temporary name beside its later place. Use `staged`.

    `write` never raises: torch's zip writer ends the whole process where a write fails. The first error is raised
    when the file is moved to its place.
    """

    def __init__(self, folder: Path, *, mode: int = 0o666) -> None:
        """Create the file, with these rights but for the umask. Raises `OSError`."""
        self.path, self._descriptor = _create_partial(folder, mode)
        self._error: OSError | None = None
        self._is_moved = False

    def write(self, content: bytes | bytearray | memoryview) -> int:
        """Append all of the content; return its number of bytes."""
        left = memoryview(content).cast("B")
        size = left.nbytes
        try:
            while self._error is None and left.nbytes:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            self._error = error
        return size

    def flush(self) -> None:
        """Do nothing, as nothing is buffered; writers call it."""

    def sync(self) -> None:
        """Flush the file to disk. Raises the `OSError` of this, or of the first write that failed."""
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)

    def move_to(self, path: Path) -> None:
        """Flush the file to disk and give it its name. Raises the `OSError` of `sync`, or of the renaming."""
        self.sync()
        os.replace(self.path, path)
        self._is_moved = True

    def discard(self) -> None:
        """Close the file, and remove it where it still has its temporary name."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        if not self._is_moved:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[StagedFile]:
    """Yield a new file beside `path`, which takes the place of `path` when the block is done, flushed to disk.

    Where the block raises, `path` stays as it was and nothing is left beside it. Raises the errors of `writing`.
    """
    with writing(path):
        file = StagedFile(path.parent)
    try:
        yield file
        with writing(path):
            file.move_to(path)
    finally:
        file.discard()
    with writing(path):
        _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: into a temporary file, flushed to disk, then renamed.

    Raises the errors of `writing`.
    """
    with staged(path) as file:
        file.write(content)


def is_partial_name(name: str) -> bool:
    """Return whether a file of that name is one that this module was writing."""
    return _PARTIAL.fullmatch(name) is not None


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes were writing in the folder and below; leave what a living process is writing.

    Links are not followed. A file that can't be removed stays.
    """
    for root, _, names in os.walk(folder):
        for path in (Path(root) / name for name in names if is_partial_name(name)):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    _remove_unless_locked(path)


def _create_partial(folder: Path, mode: int) -> tuple[Path, int]:
    """Create a file that did not exist, locked as long as it is open; return its path and descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        path = folder / f".deepreduce-{secrets.token_hex(16)}.part"
        try:
            descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), mode)
        except FileExistsError:
            continue
        _lock(descriptor, wait=True)
        with contextlib.suppress(FileNotFoundError):  # removed as a leftover before it was locked
            if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                return path, descriptor
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file, if the file system can; return False where another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        return True
    return True


def _remove_unless_locked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        if _lock(descriptor, wait=False):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Flush a rename in the folder to disk, where the system can. Raises `OSError` where the disk fails."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
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
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {_line(error)}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and plain values to one safetensors file, with a checksum of both, as `write_bytes` does."""
    write_bytes(path, tensors_as_bytes(tensors, metadata))


def tensors_as_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Return the content of the file of `write_tensors`."""
    # copies, because safetensors refuses tensors that share memory, as tied weights do
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    described = {"crc32": _checksum(plain, metadata), "values": metadata}
    content = json.dumps(described, allow_nan=False)
    return safetensors.torch.save(plain, metadata={_METADATA: content})


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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
