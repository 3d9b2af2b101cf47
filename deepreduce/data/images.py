"""The values between a source of images and a training: raw images, splits that yield batches, sizes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreduce.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops of images padded by `pad` pixels on every side, and random horizontal flips if `flip`."""

    pad: int = 0
    flip: bool = False


class Split(ABC):
    """A part of a data set, in batches of standardised float32 images (batch, C, H, W) and int64 labels (batch,)."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """Classes (images,) int64 on the CPU, in the split's order."""

    @abstractmethod
    def train_batches(
        self, *, batch_size: int, seed: int, epoch: int, device: torch.device, start_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the augmented images, labels and indices (batch,) of a shuffled epoch, from step `start_step` on.

        Order and augmentation of a step depend on seed, epoch and step only. An incomplete last batch is dropped.
        """

    @abstractmethod
    def eval_batches(self, *, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images and labels once, in the split's order, without augmentation."""

    def num_steps(self, batch_size: int) -> int:
        """Return the number of batches in a training epoch."""
        return len(self) // batch_size


@dataclass(frozen=True, kw_only=True)
class Standardisation:
    """The mean and standard deviation per channel by which raw pixel values are standardised; bytes are 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Images(Protocol):
    """Labelled images of one part of a data set, however they are stored.

    Where they can't be changed as asked, methods raise `DataError` that names the data set by `name`.
    """

    @property
    def labels(self) -> Tensor:
        """Classes (images,) int64."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of every image."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Images:
        """Return the images at `indices`, in the order of `indices`."""

    def fingerprint(self) -> str:
        """Return a short hash that identifies the images and labels."""

    def resize(self, size: int, *, name: str) -> Images:
        """Return the images as squares of `size` pixels."""

    def repeat_channels(self, channels: int, *, name: str) -> Images:
        """Return grey images repeated to `channels` channels."""

    def override_augmentation(self, *, pad: int | None, flip: bool | None, name: str) -> Images:
        """Return the images with `pad` and `flip`, if given, in place of their own augmentation."""

    def find_standardisation(self) -> Standardisation | None:
        """Return the standardisation of training images; None for a user's data set with its own transforms."""

    def split(self, augmentation: Augmentation, scale: Standardisation | None, *, workers: int) -> Split:
        """Return the split of these images, read by `workers` processes if they are decoded on demand."""


_HIGHEST_LABEL = 2**31  # far above any number of classes, far below what int64 holds


@dataclass(frozen=True, kw_only=True, eq=False)
class RawData:
    """A data set before preparation: train and test images, the number of classes, the usual augmentation.

    Raises `DataError` for labels that no classifier can be trained on (see `check_labels`), and if training and test
    images differ in shape.
    """

    name: str
    train: Images
    test: Images
    num_classes: int
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        check_labels(self.name, self.train.labels, self.test.labels, self.num_classes)
        if self.train.image_shape != self.test.image_shape:
            raise DataError(
                f"{self.name}: training images are {self.train.image_shape} and test images"
                f" {self.test.image_shape} (channels, height, width); both must be of one size"
            )


def check_labels(name: str, train: Tensor, test: Tensor, num_classes: int) -> None:
    """Raise `DataError` for an empty part and for labels that no classifier can be trained on.

    Labels must lie in [0, num_classes) and be of at least two classes; every class of the test images must have a
    training image.
    """
    for split, labels in (("training", train), ("test", test)):
        if not len(labels):
            raise DataError(f"{name} has no {split} images")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{name}: {split} labels run from {low} to {high}; with {num_classes} classes they must lie in"
                f" 0 to {num_classes - 1}"
            )
    if int(train.min()) == int(train.max()):
        raise DataError(f"{name}: all training images are of class {int(train[0])}; a classifier needs two classes")
    if num_classes > len(train):
        raise DataError(
            f"{name} has {num_classes:,} classes and only {len(train):,} training images; number the classes from 0"
            " without gaps"
        )
    trained, tested = (torch.bincount(labels, minlength=num_classes) > 0 for labels in (train, test))
    untrained = (tested & ~trained).nonzero()
    if len(untrained):
        raise DataError(
            f"{name}: class {int(untrained[0])} is in the test images only; give training images of it too"
        )


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The sizes of a data set: classes, image shape (C, H, W), and the number of images in each part."""

    num_classes: int
    image_shape: tuple[int, int, int]
    train_images: int
    val_images: int
    test_images: int

    def check_batch_size(self, batch_size: int, *, name: str) -> None:
        """Raise `DataError` if the training images of the data set called `name` don't fill one batch."""
        if self.train_images < batch_size:
            raise DataError(
                f"{name} has {self.train_images:,} training images, fewer than a batch of {batch_size:,}; lower"
                " training.batch_size"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set ready for training; `val` was split off the training images.

    `fingerprint` identifies images, labels, splits and augmentation. `standardisation` is None for a user's data set
    with its own transforms.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int
    image_shape: tuple[int, int, int]
    fingerprint: str
    standardisation: Standardisation | None = None

    @property
    def facts(self) -> DataFacts:
        """Sizes of the data set."""
        return DataFacts(
            num_classes=self.num_classes,
            image_shape=self.image_shape,
            train_images=len(self.train),
            val_images=len(self.val),
            test_images=len(self.test),
        )

    def check_batch_size(self, batch_size: int) -> None:
        """Raise `DataError` if the training images don't fill one batch."""
        self.facts.check_batch_size(batch_size, name=self.name)


def draw_balanced(labels: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Return sorted indices (count,) of images drawn at random so that every class keeps its share."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    sizes = torch.bincount(labels)
    first = torch.cumsum(sizes, 0) - sizes
    classes = labels[by_class]
    # an image's place within its class, as a fraction: the smallest places come from all classes evenly
    place = (torch.arange(len(labels)) - first[classes] + 0.5) / sizes[classes]
    return by_class[torch.argsort(place, stable=True)[:count]].sort().values


def check_label_kind(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, *, count: int) -> None:
    """Raise `DataError` unless this is the shape and type of labels (count,): whole or floating-point numbers."""
    if shape != (count,):
        raise DataError(f"{name} labels are of shape {shape}; {count:,} images need {count:,} labels")
    if dtype.kind not in "iuf":
        raise DataError(f"{name} labels are {dtype}; they must be whole numbers")


def labels_from_array(labels: NDArray[Any], name: str, *, count: int) -> Tensor:
    """Convert labels (N,) to an int64 tensor. Raises `DataError` for other shapes, NaN and fractions."""
    check_label_kind(labels.shape, labels.dtype, name, count=count)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise DataError(f"{name} labels hold NaN or infinite values; they must be whole numbers")
        if (labels != np.rint(labels)).any():
            raise DataError(f"{name} labels hold fractions; they must be whole numbers")
    if count and not -_HIGHEST_LABEL <= float(labels.min()) <= float(labels.max()) <= _HIGHEST_LABEL:
        raise DataError(
            f"{name} labels run from {float(labels.min()):g} to {float(labels.max()):g}; number the classes from 0"
        )
    return torch.from_numpy(labels.astype(np.int64))


def channels_error(name: str, channels: int, wanted: int) -> DataError:
    """Return the error of images that can't be repeated to `wanted` channels."""
    return DataError(f"{name}: data.channels repeats grey images to {wanted} channels; these have {channels}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def hash_texts(parts: Sequence[str]) -> str:
    """Return a short hash of a sequence of texts."""
    # file names need not be valid UTF-8
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=8).hexdigest()
