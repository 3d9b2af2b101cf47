"""A client's image from a file: pixel values as they are in the data set, (C, H, W)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepreduce.data import Standardisation
from deepreduce.errors import DataError


def pixels_of_file(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """The picture in `path`: a .npy array (C, H, W) or (H, W, C), grey also (H, W), or a picture of any other format.

    Raises `DataError` where it can't be read or is not of `shape` (C, H, W).
    """
    array = _array(path) if path.suffix == ".npy" else _picture(path, channels=shape[0])
    pixels = torch.from_numpy(np.ascontiguousarray(array)).float()
    if pixels.dim() == 2:
        pixels = pixels[None]
    if tuple(pixels.shape) != shape and pixels.dim() == 3:
        pixels = pixels.permute(2, 0, 1)
    if tuple(pixels.shape) != shape:
        raise DataError(f"{path} is of shape {tuple(array.shape)}; the server's network takes {shape} (C, H, W)")
    return pixels


def standardised(pixels: Tensor, scale: Standardisation | None) -> Tensor:
    """Pixels (C, H, W) as the network was trained on them; as they are where nothing is known of that."""
    if scale is None:
        return pixels
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scale.mean, scale.std))
    return (pixels - mean) / std


def _array(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as an array: {error}") from error


def _picture(path: Path, *, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.uint8)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} can't be read as a picture: {error}") from error
