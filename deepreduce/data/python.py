"""Data sets given from Python as tensors, NumPy arrays or torch data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from deepreduce.data.arrays import ImageArrays
from deepreduce.data.images import Augmentation, Images, RawData, labels_from_array
from deepreduce.data.loaders import ImageItems, items_from_dataset
from deepreduce.errors import DataError

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency
_FORMS = "(train data set, test data set), (x_train, y_train, x_test, y_test) or a mapping with these names"


def raw_from_python(given: Any, *, num_classes: int | None = None) -> RawData:
    """Convert a caller's data to a `RawData`.

    `given` is two map-style torch data sets of (image (C, H, W), class) pairs, or four tensors or arrays: images
    (N, C, H, W) or (N, H, W), uint8 or float, and labels (N,). `num_classes` defaults to the highest training
    label plus one. Raises `DataError` for any other value.
    """
    if isinstance(given, Mapping):
        missing = [key for key in _KEYS if key not in given]
        if missing:
            raise DataError(f"the data lack {', '.join(missing)}; give {_FORMS}")
        given = tuple(given[key] for key in _KEYS)
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) not in (2, 4):
        raise DataError(f"the data are {type(given).__name__}; give a data set's name, or {_FORMS}")
    train: Images
    test: Images
    if len(given) == 4:
        train, test = _arrays(given[0], given[1], "x_train"), _arrays(given[2], given[3], "x_test")
    else:
        train, test = _items(given[0], "the training data set"), _items(given[1], "the test data set")
    return RawData(
        name="tensors" if len(given) == 4 else "torch data set",
        train=train,
        test=test,
        num_classes=num_classes if num_classes is not None else int(train.labels.max()) + 1,
        augmentation=Augmentation(),  # the caller decides which augmentation keeps the classes
    )


def _items(dataset: Any, name: str) -> ImageItems:
    if not isinstance(dataset, Dataset):
        raise DataError(f"{name} is a {type(dataset).__name__}; give {_FORMS}")
    return items_from_dataset(dataset, name)


def _arrays(images: Any, labels: Any, name: str) -> ImageArrays:
    pixels, classes = _tensor(images, name), _tensor(labels, f"y{name[1:]}")
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    if pixels.dtype != torch.uint8:
        if not pixels.is_floating_point():
            raise DataError(f"{name} is {pixels.dtype}; images must be uint8 or floating point")
        pixels = pixels.float()
    if not len(pixels):
        raise DataError(f"{name} holds no images")
    if pixels.dim() == 4 and pixels.shape[3] in _CHANNELS and min(pixels.shape[1:3]) > max(_CHANNELS):
        raise DataError(
            f"{name} is of shape {tuple(pixels.shape)}, which looks like (images, height, width, channels); move the"
            " channels forward, as in x.transpose(0, 3, 1, 2) of an array or x.permute(0, 3, 1, 2) of a tensor"
        )
    if classes.is_floating_point():
        classes = classes.double()  # NumPy has no bfloat16
    return ImageArrays(images=pixels, labels=labels_from_array(classes.numpy(), name, count=len(pixels)))


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        if value.is_meta or value.layout != torch.strided:
            raise DataError(f"{name} is a tensor without values or not dense; give an ordinary tensor")
        return value.detach().cpu()
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(f"{name} is a masked array, whose mask would be lost; fill it, as in x.filled(0)")
    if isinstance(value, (np.ndarray, list, tuple)):
        try:
            # copies only memory that torch can't use: read-only, or with negative strides
            return torch.as_tensor(np.require(value, requirements=["C", "W"]))
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} can't be read as numbers: {error}") from error
    raise DataError(f"{name} is a {type(value).__name__}; give a tensor or an array")
