"""The values that flow from a source of images to a training: raw images, then splits that give batches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreduce.errors import DataError

if TYPE_CHECKING:
    from deepreduce.data.loaders import ImageItems


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops of the image padded by `pad` pixels on every side, and random horizontal flips."""

    pad: int = 0
    flip: bool = False


class Split(ABC):
    """One part of a data set, as batches of standardised float32 images (batch, C, H, W) and int64 labels."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """The class of every image in the split's order: (images,) int64, on the CPU."""

    @abstractmethod
    def train_batches(
        self, *, batch_size: int, seed: int, epoch: int, device: torch.device, start_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Augmented images, labels and indices (batch,) of one epoch, shuffled, from step `start_step` on.

        Order and augmentation of a step follow from seed, epoch and step alone. An incomplete last batch is left
        out.
        """

    @abstractmethod
    def eval_batches(self, *, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """All images and labels once, in the split's order, without augmentation."""

    def num_steps(self, batch_size: int) -> int:
        """Batches of one epoch of training."""
        return len(self) // batch_size


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageArrays:
    """Images in memory: (N, C, H, W), uint8 or float32, and labels (N,) int64.

    Raises `DataError` for other shapes and types, and for values that are not finite.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise DataError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}; they must be uint8 or float32"
                " of shape (images, channels, height, width)"
            )
        if 0 in self.images.shape[1:]:
            raise DataError(f"images of shape {tuple(self.images.shape)} have no pixels")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{len(self.images)} images have labels of shape {tuple(self.labels.shape)} and type"
                f" {self.labels.dtype}; give one whole number per image"
            )
        if self.images.is_floating_point() and not bool(torch.isfinite(self.images).all()):
            raise DataError("some images hold NaN or infinite values; every pixel must be finite")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: Tensor) -> ImageArrays:
        """The images at `indices`, in their order."""
        return ImageArrays(images=self.images[indices], labels=self.labels[indices])

    def fingerprint(self) -> str:
        """Short hash of all pixels and labels."""
        digest = hashlib.blake2b(repr((self.images.shape, self.images.dtype)).encode(), digest_size=8)
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


_HIGHEST_LABEL = 2**31  # far above any number of classes, far below what int64 holds

Images: TypeAlias = "ImageArrays | ImageItems"


@dataclass(frozen=True, kw_only=True, eq=False)
class RawData:
    """A data set as it comes: train and test images, the number of classes, the augmentation usual for it."""

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
    """Raises `DataError` for an empty part and for labels that no classifier can be trained on.

    They must lie in [0, num_classes), be of two classes at least, and have a training image for every class that is
    tested.
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
    taught, tested = (torch.bincount(labels, minlength=num_classes) > 0 for labels in (train, test))
    untaught = (tested & ~taught).nonzero()
    if len(untaught):
        raise DataError(
            f"{name}: class {int(untaught[0])} is in the test images only; give training images of it too"
        )


@dataclass(frozen=True, kw_only=True)
class Standardisation:
    """What training subtracts from raw pixel values and divides them by, per channel; bytes run from 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a network must know of a data set: classes, image shape (C, H, W), and how many images there are."""

    num_classes: int
    image_shape: tuple[int, int, int]
    train_images: int
    val_images: int
    test_images: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set ready for training. `val` was split off the training images; `fingerprint` identifies it all.

    `standardisation` is None where the images come from a user's data set, with transforms of its own.
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
        """Sizes without the images."""
        return DataFacts(
            num_classes=self.num_classes,
            image_shape=self.image_shape,
            train_images=len(self.train),
            val_images=len(self.val),
            test_images=len(self.test),
        )

    def check_batch_size(self, batch_size: int) -> None:
        """Raises `DataError` where the training images don't fill one batch."""
        if len(self.train) < batch_size:
            raise DataError(
                f"{self.name} has {len(self.train)} training images, fewer than a batch of {batch_size}; lower"
                " training.batch_size"
            )


def balanced(labels: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Indices (count,) of images drawn at random so that every class keeps its share, sorted."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    sizes = torch.bincount(labels)
    first = torch.cumsum(sizes, 0) - sizes
    classes = labels[by_class]
    # place within its class as a fraction; taking the smallest takes from all classes evenly
    place = (torch.arange(len(labels)) - first[classes] + 0.5) / sizes[classes]
    return by_class[torch.argsort(place, stable=True)[:count]].sort().values


def labels_from_array(labels: NDArray[Any], name: str, *, count: int) -> Tensor:
    """Labels (N,) int64. Raises `DataError` for other shapes, for NaN and for what is not a whole number."""
    if labels.shape != (count,):
        raise DataError(f"{name} labels are of shape {labels.shape}; {count} images need {count} labels")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise DataError(f"{name} labels hold NaN or infinite values; they must be whole numbers")
        if (labels != np.rint(labels)).any():
            raise DataError(f"{name} labels hold fractions; they must be whole numbers")
    elif labels.dtype.kind not in "iu":
        raise DataError(f"{name} labels are {labels.dtype}; they must be whole numbers")
    if count and float(labels.max()) > _HIGHEST_LABEL:
        raise DataError(f"{name} labels reach {float(labels.max()):g}; number the classes from 0")
    return torch.from_numpy(labels.astype(np.int64))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def hashed(parts: Sequence[str]) -> str:
    """Short hash of some texts."""
    # file names need not be valid UTF-8
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=8).hexdigest()
