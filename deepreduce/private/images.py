"""Read a client's image from a file: pixel values on the data set's scale, (C, H, W)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepreduce.data import Standardisation
from deepreduce.errors import DataError


def read_pixels(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read pixel values of `shape` (C, H, W) from a .npy array or a picture.

    An array is (C, H, W) or (H, W, C), a grey one also (H, W). Raises `DataError` for a file that can't be read or
    holds another shape.
    """
    array = _read_array(path) if path.suffix == ".npy" else _read_picture(path, channels=shape[0])
    pixels = torch.from_numpy(np.ascontiguousarray(array)).float()
    if pixels.dim() == 2:
        pixels = pixels[None]
    if tuple(pixels.shape) != shape and pixels.dim() == 3:
        pixels = pixels.permute(2, 0, 1)
    if tuple(pixels.shape) != shape:
        raise DataError(f"{path} has shape {tuple(array.shape)}; the server's network takes {shape} (C, H, W)")
    return pixels


def standardise(pixels: Tensor, scale: Standardisation | None) -> Tensor:
    """Return the pixels (C, H, W) on the scale that the network was trained on; unchanged if `scale` is None."""
    if scale is None:
        return pixels
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scale.mean, scale.std))
    return (pixels - mean) / std


def _read_array(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as an array: {error}") from error


def _read_picture(path: Path, *, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("L" if channels == 1 else "RGB"), np.uint8)  # torch warns of a view
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} can't be read as a picture: {error}") from error
