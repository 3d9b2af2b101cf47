"""Images held in memory as one tensor, and their splits, augmented batch by batch on the training device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deepreduce.data.images import Augmentation, Split, Standardisation, channels_error, labels_from_array
from deepreduce.errors import DataError
from deepreduce.utils.fields import MOST_PIXELS
from deepreduce.utils.memory import check_memory
from deepreduce.utils.seed import derived_generator

_CHUNK_BYTES = 2**26  # of float copies of the images that are resized at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageArrays:
    """Images in memory: uint8 or float32 (N, C, H, W), with labels (N,) int64.

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
        """Shape (C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: Tensor) -> ImageArrays:
        """Return the images at `indices`, in the order of `indices`."""
        return ImageArrays(images=self.images[indices], labels=self.labels[indices])

    def fingerprint(self) -> str:
        """Return a short hash of all pixels and labels."""
        digest = hashlib.blake2b(repr((self.images.shape, self.images.dtype)).encode(), digest_size=8)
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def resize(self, size: int, *, name: str) -> ImageArrays:
        """Return the images as squares of `size` pixels (bilinear, antialiased), in their type."""
        if self.image_shape[1:] == (size, size):
            return self
        count, channels, height, width = self.images.shape
        pixels = channels * size**2
        check_memory(
            count * pixels * self.images.element_size(),
            f"{name}: resizing {count:,} images to {size}x{size}",
            repair="lower data.image_size, or data.train_limit and data.test_limit",
            error=DataError,
        )
        at_once = max(_CHUNK_BYTES // (4 * max(pixels, channels * height * width)), 1)
        resized = [_resize(chunk, size) for chunk in torch.split(self.images, at_once)]
        return replace(self, images=torch.cat(resized))

    def repeat_channels(self, channels: int, *, name: str) -> ImageArrays:
        """Return grey images repeated to `channels` channels. Raises `DataError` for images of several others."""
        if channels == self.image_shape[0]:
            return self
        if self.image_shape[0] != 1:
            raise channels_error(name, self.image_shape[0], channels)
        return replace(self, images=self.images.expand(-1, channels, -1, -1).contiguous())

    def override_augmentation(self, *, pad: int | None, flip: bool | None, name: str) -> ImageArrays:
        """Return the images as they are: their split augments them."""
        return self

    def find_standardisation(self) -> Standardisation:
        """Return the mean and standard deviation of these images."""
        mean, std = standardisation(self.images)
        return Standardisation(mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def split(self, augmentation: Augmentation, scale: Standardisation | None, *, workers: int) -> ArraySplit:
        """Return the split, which needs no `workers`."""
        assert scale is not None
        return ArraySplit(self, mean=torch.tensor(scale.mean), std=torch.tensor(scale.std), augmentation=augmentation)


def check_nhwc(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Raise `DataError` unless these are bytes (N, H, W) or (N, H, W, C), with 1, 3 or 4 channels."""
    if dtype != np.uint8:
        raise DataError(f"{name} images are {dtype}; they must be uint8, 0 to 255")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)) or 0 in shape[1:]:
        raise DataError(
            f"{name} images are of shape {shape}; they must be (images, height, width) or (images, height,"
            " width, channels) with 1, 3 or 4 channels"
        )
    if max(shape[1:3]) > MOST_PIXELS:
        raise DataError(f"{name} images are of shape {shape}; height and width may be {MOST_PIXELS:,} pixels at most")


def images_from_nhwc(images: NDArray[Any], labels: NDArray[Any], name: str) -> ImageArrays:
    """Check bytes (N, H, W, C) or (N, H, W) and labels (N,), and return them channels-first."""
    check_nhwc(images.shape, images.dtype, name)
    if images.ndim == 3:
        images = images[..., None]
    return ImageArrays(
        images=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        labels=labels_from_array(labels, name, count=len(images)),
    )


class ArraySplit(Split):
    """A split of images in memory; `mean` and `std` (C,) standardise its pixels."""

    def __init__(self, images: ImageArrays, *, mean: Tensor, std: Tensor, augmentation: Augmentation) -> None:
        self._images, self._labels = images.images, images.labels
        self._mean, self._std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        self._augmentation = augmentation
        self._placed: tuple[torch.device, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def train_batches(
        self, *, batch_size: int, seed: int, epoch: int, device: torch.device, start_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        images, labels = self._move_to(device)
        order = torch.randperm(len(self), generator=derived_generator(seed, epoch, "order"))
        for step in range(start_step, self.num_steps(batch_size)):
            indices = order[step * batch_size : (step + 1) * batch_size]
            here = indices.to(device, non_blocking=True)
            generator = derived_generator(seed, epoch, step, "augment")
            batch = augment(images[here], self._augmentation, generator=generator)
            yield self._standardise(batch), labels[here], indices

    def eval_batches(self, *, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self._move_to(device)
        for start in range(0, len(self), batch_size):
            yield self._standardise(images[start : start + batch_size]), labels[start : start + batch_size]

    def _move_to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images and labels on the device, which keeps them for the next call."""
        if self._placed is None or self._placed[0] != device:
            self._placed = (device, self._images.to(device), self._labels.to(device))
        return self._placed[1], self._placed[2]

    def _standardise(self, batch: Tensor) -> Tensor:
        mean, std = self._mean.to(batch.device), self._std.to(batch.device)
        return batch.float().sub_(mean).div_(std) if batch.dtype == torch.uint8 else (batch - mean) / std


def _resize(images: Tensor, size: int) -> Tensor:
    """Return images (N, C, H, W) as squares of `size` pixels, in their type."""
    pixels = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    if images.dtype == torch.uint8:
        pixels = pixels.round_().clamp_(0, 255).to(torch.uint8)
    return pixels


def augment(batch: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Crop every padded image (B, C, H, W) at random and mirror it with probability 1/2, as `augmentation` says.

    Returns the shape and type of `batch`. `generator` is a CPU generator.
    """
    if not augmentation.pad and not augmentation.flip:
        return batch
    count, _, height, width = batch.shape
    pad = augmentation.pad
    # shifts and flips are always drawn, so that switching one off does not change the other
    shifts = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = shifts[0] + torch.arange(height)  # (B, H)
    columns = shifts[1] + torch.arange(width)  # (B, W)
    if augmentation.flip:
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(batch.device, non_blocking=True), columns.to(batch.device, non_blocking=True)
    padded = F.pad(batch, (pad, pad, pad, pad))
    which = torch.arange(count, device=batch.device)[:, None, None]
    # one gather crops and mirrors at once; its result is channels-last
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def standardisation(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (C,) of pixels (N, C, H, W), in float32.

    A channel of one constant value has a standard deviation of 1, so that dividing by it is safe.
    """
    if images.dtype == torch.uint8:
        values = torch.arange(256, dtype=torch.float64)
        counts = torch.stack(
            [torch.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])]
        ).double()
        total = counts.sum(dim=1)
        mean = (counts * values).sum(dim=1) / total
        variance = (counts * (values - mean[:, None]) ** 2).sum(dim=1) / total
    else:
        flat = images.double().transpose(0, 1).flatten(1)
        mean, variance = flat.mean(dim=1), flat.var(dim=1, correction=0)
    std = variance.sqrt()
    return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()
