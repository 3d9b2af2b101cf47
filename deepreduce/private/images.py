"""Read a client's image from a file: pixel values on the data set's scale, (C, H, W).

A file is not trusted: its header is checked before anything is allocated for what it claims.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreduce.data import Standardisation
from deepreduce.errors import DataError
from deepreduce.utils.optional import quiet_loggers

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_VALUES = 3 * 2**22
"""Most pixel values of an image: 2048 x 2048 in three colours."""

_NPY: Any = np.lib.format  # numpy declares no types for it
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
"""Formats of pictures that are read; others run programs (EPS) or are hardly ever tested."""

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
"""Pillow's modes of at most 8 bits a channel; converting the others to 8 bits clips them without a word."""


@dataclass(frozen=True)
class ImageFile:
    """The pixel values of a file, read before it is known what shape a server's network takes.

    `pixels` has the arrays by their number of channels: a picture can be read in grey (1) and in colour (3). An array
    stands under 0.
    """

    path: Path
    pixels: Mapping[int, NDArray[Any]]

    def with_shape(self, shape: tuple[int, int, int]) -> Tensor:
        """Return the pixel values in `shape` (C, H, W). Raises `DataError` if the file holds another shape.

        An array may be (C, H, W) or (H, W, C), a grey one also (H, W).
        """
        array = self.pixels[0] if 0 in self.pixels else self.pixels[1 if shape[0] == 1 else 3]
        pixels = torch.from_numpy(np.ascontiguousarray(array)).float()
        if pixels.dim() == 2:
            pixels = pixels[None]
        if tuple(pixels.shape) != shape and pixels.dim() == 3:
            pixels = pixels.permute(2, 0, 1)
        if tuple(pixels.shape) != shape:
            raise DataError(
                f"{self.path} has shape {tuple(array.shape)}; the server's network takes {shape} (C, H, W)"
            )
        if not bool(pixels.isfinite().all()):
            raise DataError(f"{self.path} holds values that are NaN or infinite; give finite pixel values")
        return pixels


def read_image(path: Path) -> ImageFile:
    """Read pixel values from a .npy array or a picture.

    Raises `DataError` for anything else, and for more than `MAX_VALUES` values.
    """
    is_array = path.suffix.lower() == ".npy"
    what = "an array" if is_array else "a picture"
    try:
        _check_regular(path)
        with open(path, "rb") as file:
            return ImageFile(path, {0: _read_array(file)} if is_array else _read_picture(file))
    except DataError:
        raise
    except Exception as error:  # the libraries raise errors of every type for broken files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} can't be read as {what}: {reason}") from error


def standardise(pixels: Tensor, scale: Standardisation | None) -> Tensor:
    """Return the pixels (C, H, W) on the scale that the network was trained on; unchanged if `scale` is None."""
    if scale is None:
        return pixels
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scale.mean, scale.std))
    return (pixels - mean) / std


def _check_regular(path: Path) -> None:
    """Raise `ValueError` for what has no end or blocks when it is opened: devices, pipes."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")


def _check_count(count: int) -> None:
    if count > MAX_VALUES:
        raise ValueError(f"it has {count:,} values; an image may have {MAX_VALUES:,}")


def _read_array(file: BinaryIO) -> NDArray[Any]:
    """Read numbers from a file of `np.save`, of a size that its header gives truly. Raises errors of any type."""
    version = _NPY.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format has version {version[0]}.{version[1]}; save it again with numpy.save")
    read_header = _NPY.read_array_header_1_0 if version == (1, 0) else _NPY.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds values of type {dtype}; give numbers")
    if len(shape) not in (2, 3) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"its shape is {shape}; give (C, H, W), (H, W, C) or (H, W)")
    _check_count(math.prod(shape))
    expected = math.prod(shape) * dtype.itemsize
    found = os.fstat(file.fileno()).st_size - file.tell()
    if found != expected:
        raise ValueError(f"its shape {shape} takes {expected:,} bytes, but it has {found:,}")
    file.seek(0)
    return np.asarray(_NPY.read_array(file, allow_pickle=False), np.float64)


def _read_picture(file: BinaryIO) -> dict[int, NDArray[Any]]:
    """Read a picture in grey and in colour, by the number of channels. Raises errors of any type."""
    from PIL import Image

    with quiet_loggers("PIL", level=logging.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=_FORMATS) as picture:
            _check_count(3 * picture.width * picture.height)
            if picture.mode not in _EIGHT_BITS:
                raise ValueError(f"it has more than 8 bits a channel (mode {picture.mode}); save it with 8")
            picture.load()
            return {channels: _converted(picture, mode) for channels, mode in ((1, "L"), (3, "RGB"))}


def _converted(picture: Image, mode: str) -> NDArray[Any]:
    return np.array(picture.convert(mode), np.uint8)  # a copy: torch warns of a view
