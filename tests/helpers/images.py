"""Tiny data sets: random ones, and real image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreduce.data import ImageArrays, ImageData, Preparation, RawData, prepare, raw_from_python
from deepreduce.utils.seed import derived_generator

CPU = torch.device("cpu")


def random_images(count: int, *, channels: int = 3, size: int = 6, seed: int = 0) -> Tensor:
    """(count, channels, size, size) uint8."""
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=derived_generator(seed, "images"))


def cyclic_labels(count: int, classes: int = 3) -> Tensor:
    """0, 1, 2, 0, 1, 2, ..."""
    return torch.arange(count) % classes


def raw(train: int = 60, test: int = 12, *, classes: int = 3, channels: int = 3, size: int = 6) -> RawData:
    return raw_from_python(
        (
            random_images(train, channels=channels, size=size),
            cyclic_labels(train, classes),
            random_images(test, channels=channels, size=size, seed=1),
            cyclic_labels(test, classes),
        )
    )


def striped(train: int = 96, test: int = 48, *, size: int = 8, seed: int = 0) -> ImageData:
    """Three classes that a tiny network learns in a few epochs: noise that is brighter in one colour."""
    parts = []
    for number, count in enumerate((train, test)):
        images, labels = random_images(count, size=size, seed=2 * seed + number) // 2, cyclic_labels(count)
        images[torch.arange(count), labels] += 60
        parts.append(ImageArrays(images=images, labels=labels))
    whole = RawData(name="stripes", train=parts[0], test=parts[1], num_classes=3)
    return prepare(whole, Preparation(val_fraction=0.25, pad=1, flip=True), seed=seed)


def arrays(train: int = 20, test: int = 10, *, classes: int = 3, size: int = 6) -> dict[str, NDArray[np.generic]]:
    """What a good npz file holds."""
    return {
        "x_train": random_images(train, size=size).permute(0, 2, 3, 1).numpy(),
        "y_train": cyclic_labels(train, classes).numpy(),
        "x_test": random_images(test, size=size, seed=1).permute(0, 2, 3, 1).numpy(),
        "y_test": cyclic_labels(test, classes).numpy(),
    }


def save_image(path: Path, *, size: tuple[int, int] = (64, 64), seed: int = 0, mode: str = "RGB") -> Path:
    """A real image file of noise, of the type that its ending says."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random_images(1, size=max(size), seed=seed)[0].permute(1, 2, 0).numpy()[: size[1], : size[0]]
    Image.fromarray(np.ascontiguousarray(pixels)).convert(mode).save(path)
    return path
