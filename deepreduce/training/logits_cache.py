"""What a teacher says of the images that students are shown: asked once for every view, and remembered.

All students of a run see the same augmented views, since those follow from a seed, the epoch and the step alone. So
the teacher's logits of a view are computed for the first student and read by all others, in other processes too.
"""

from __future__ import annotations

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

_LARGEST = 6e4
"""Within float16's range."""

_CHUNK = 2**24
_CHECKSUM = np.dtype("<u4")


class LogitsCache:
    """Logits of the batches of some epochs, float16, in a file that all processes of a run map into memory.

    The operating system keeps the file in memory while there is room. A batch is there once its checksum is, so a
    file that was left by a killed process is as good as any.
    """

    def __init__(self, path: Path, *, epochs: int, steps: int, batch_size: int, num_classes: int) -> None:
        """Open the file, or make it. Raises `OSError` where the disk has no room for it."""
        self._arguments = (path, epochs, steps, batch_size, num_classes)
        self._steps, self._epochs = steps, epochs
        self._shape = (batch_size, num_classes)
        self._head = epochs * steps * _CHECKSUM.itemsize
        self._bytes = batch_size * num_classes * 2
        size = self.size(epochs=epochs, steps=steps, batch_size=batch_size, num_classes=num_classes)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, 0)
                _allocate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        except OSError:
            path.unlink(missing_ok=True)  # the room that it took is wanted by others
            raise
        finally:
            os.close(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        # another process maps the same file
        path, epochs, steps, batch_size, num_classes = self._arguments
        sizes = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "num_classes": num_classes}
        return partial(type(self), path, **sizes), ()

    @staticmethod
    def size(*, epochs: int, steps: int, batch_size: int, num_classes: int) -> int:
        """Bytes of the file."""
        return epochs * steps * (_CHECKSUM.itemsize + batch_size * num_classes * 2)

    def read(self, *, epoch: int, step: int) -> Tensor | None:
        """Logits (batch, classes) float16, on the CPU; None where they are not there."""
        if not self._holds(epoch, step):
            return None
        block = self._block(epoch, step)
        content = self._map[block : block + self._bytes]
        if self._checksums()[epoch * self._steps + step] != _checksum(content):
            return None
        return torch.frombuffer(bytearray(content), dtype=torch.float16).view(self._shape)

    def write(self, logits: Tensor, *, epoch: int, step: int) -> None:
        """Remember the logits (batch, classes) float16 of one batch; an epoch too many is not."""
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


def _allocate(descriptor: int, size: int) -> None:
    """Zeros that are on the disk: a file with holes would end the process when the disk is full, not raise."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for begin in range(0, size, _CHUNK):
        os.write(descriptor, bytes(min(_CHUNK, size - begin)))


def _checksum(content: bytes) -> int:
    return zlib.crc32(content) or 1  # 0 says that nothing is there


class Teacher:
    """A teacher's logits of the views that students are trained on.

    `teacher` (images -> logits) is in evaluation mode on the device of the images. With `remembered`, a view that
    was asked for before is not computed again; without, or past its epochs, it is. Either way the logits are rounded
    to float16, so that remembering changes no result.
    """

    def __init__(self, teacher: nn.Module, *, precision: Precision, remembered: LogitsCache | None = None) -> None:
        self._teacher, self._bf16, self._remembered = teacher, precision.bf16, remembered

    def logits(self, images: Tensor, *, epoch: int, step: int) -> Tensor:
        """(batch, classes) float32 for the augmented images (batch, C, H, W) of that step."""
        known = self._remembered.read(epoch=epoch, step=step) if self._remembered else None
        if known is not None:
            return known.to(images.device, non_blocking=True).float()
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16):
            logits = self._teacher(images).float().clamp(-_LARGEST, _LARGEST).half()  # (batch, classes)
        if self._remembered:
            self._remembered.write(logits, epoch=epoch, step=step)
        answers: Tensor = logits.float()
        return answers
