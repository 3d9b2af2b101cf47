"""A teacher's logits of augmented images, computed once and cached in a file.

All students of a run see the same augmented images, which follow from the schedule's seed, the epoch and the step. So
the logits of a batch are computed for the first student, and read by all others, in other processes too.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepreduce.training.recipe import Precision

log = logging.getLogger(__name__)

_LARGEST = 6e4  # within float16's range

_CHUNK = 2**24
_CHECKSUM = np.dtype("<u4")


class LogitsCache:
    """Logits of the batches of some epochs, float16, in a file that all processes of a run map into memory.

    The operating system keeps the file in memory while there is room. A batch counts as cached once its checksum is
    right, so the file of a killed process can be used.
    """

    def __init__(self, path: Path, *, epochs: int, steps: int, batch_size: int, num_classes: int) -> None:
        """Open the file, or create it. Raises `OSError` if the disk has no room for it."""
        self._arguments = (path, epochs, steps, batch_size, num_classes)
        self._steps, self._epochs = steps, epochs
        self._shape = (batch_size, num_classes)
        self._head = epochs * steps * _CHECKSUM.itemsize
        self._bytes = batch_size * num_classes * 2
        size = self.size(epochs=epochs, steps=steps, batch_size=batch_size, num_classes=num_classes)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # a link in its place is not written through
        descriptor = os.open(path, flags, 0o644)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, 0)
                _allocate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # other files need the room that it took
            raise
        finally:
            os.close(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        # unpickled in another process, it maps the same file
        path, epochs, steps, batch_size, num_classes = self._arguments
        sizes = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "num_classes": num_classes}
        return partial(type(self), path, **sizes), ()

    @staticmethod
    def size(*, epochs: int, steps: int, batch_size: int, num_classes: int) -> int:
        """Return the bytes of the file."""
        return epochs * steps * (_CHECKSUM.itemsize + batch_size * num_classes * 2)

    def read(self, *, epoch: int, step: int) -> Tensor | None:
        """Return the logits (batch, classes) of a batch, float16, on the CPU; None if they are not cached."""
        if not self._holds(epoch, step):
            return None
        block = self._block(epoch, step)
        content = self._map[block : block + self._bytes]
        if self._checksums()[epoch * self._steps + step] != _checksum(content):
            return None
        return torch.frombuffer(bytearray(content), dtype=torch.float16).view(self._shape)

    def write(self, logits: Tensor, *, epoch: int, step: int) -> None:
        """Cache the logits (batch, classes), float16, of one batch; ignore epochs that the file has no room for."""
        if not self._holds(epoch, step) or tuple(logits.shape) != self._shape:
            return
        content = logits.cpu().contiguous().numpy().tobytes()
        block = self._block(epoch, step)
        self._map[block : block + self._bytes] = content
        self._checksums()[epoch * self._steps + step] = _checksum(content)

    def _holds(self, epoch: int, step: int) -> bool:
        return epoch < self._epochs and step < self._steps

    def _block(self, epoch: int, step: int) -> int:
        return self._head + (epoch * self._steps + step) * self._bytes

    def _checksums(self) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        return np.frombuffer(self._map, dtype=_CHECKSUM, count=self._epochs * self._steps)


def open_logits_cache(
    path: Path, *, epochs: int, steps: int, batch_size: int, num_classes: int, max_bytes: float
) -> LogitsCache | None:
    """Open the cache of that many epochs, or of as many as `max_bytes` hold.

    Returns None where they hold none, and with a warning where the disk has no room or the file can't be written.
    """
    sizes = {"steps": steps, "batch_size": batch_size, "num_classes": num_classes}
    allowed = int(max_bytes // LogitsCache.size(epochs=1, **sizes))
    if not allowed:
        return None
    try:
        return LogitsCache(path, epochs=min(epochs, allowed), **sizes)
    except OSError as error:
        log.warning("the teacher's logits are not cached: %s", error.strerror or error)
        return None


def _allocate(descriptor: int, size: int) -> None:
    """Write zeros: with a file that has holes, a full disk would end the process instead of raising."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for begin in range(0, size, _CHUNK):
        os.write(descriptor, bytes(min(_CHUNK, size - begin)))


def _checksum(content: bytes) -> int:
    return zlib.crc32(content) or 1  # 0 marks an empty place


class Teacher:
    """A trained network whose logits students learn from.

    `module` (images -> logits) is in evaluation mode, on the device of the images. A `cache` spares computing the
    logits of a batch again; they are rounded to float16 with and without it, so that it changes no result.
    """

    def __init__(self, module: nn.Module, *, precision: Precision, cache: LogitsCache | None = None) -> None:
        self._module, self._bf16, self._cache = module, precision.bf16, cache

    @property
    def module(self) -> nn.Module:
        """The network itself, in evaluation mode, its weights frozen."""
        return self._module

    def logits(self, images: Tensor, *, epoch: int, step: int) -> Tensor:
        """Return logits (batch, classes), float32, for the augmented images (batch, C, H, W) of that step."""
        cached = self._cache.read(epoch=epoch, step=step) if self._cache else None
        if cached is not None:
            return cached.to(images.device, non_blocking=True).float()
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16):
            rounded = self._module(images).float().clamp(-_LARGEST, _LARGEST).half()  # (batch, classes)
        if self._cache:
            self._cache.write(rounded, epoch=epoch, step=step)
        logits: Tensor = rounded.float()
        return logits
