"""Splits of images held in memory as one tensor, augmented batch by batch on the training device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from deepreduce.data.images import Augmentation, ImageArrays, Split
from deepreduce.utils.seed import derived_generator


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
