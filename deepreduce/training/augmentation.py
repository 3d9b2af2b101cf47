"""Draw the augmented images that a training sees, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreduce.data import Split
from deepreduce.training.logits_cache import Teacher


@dataclass(frozen=True, kw_only=True)
class AugmentationSchedule:
    """Order and augmentation of the training images, the same for all trainings that share the schedule.

    They follow from `seed` and repeat after `epochs` epochs (0: never). Images are augmented in batches of
    `batch_size` (None: the training's batch size). A training starts with epoch `first` of the schedule.
    """

    seed: int
    epochs: int = 0
    batch_size: int | None = None
    first: int = 0

    def epoch(self, number: int) -> int:
        """Return the schedule's epoch for epoch `number` of a training; both are counted from 0."""
        number += self.first
        return number % self.epochs if self.epochs else number


class AugmentedBatches:
    """The batches of a training, each of one or several batches of its augmentation schedule.

    Raises `ValueError` if `batch_size` is not a multiple of the schedule's.
    """

    def __init__(
        self, split: Split, schedule: AugmentationSchedule, *, batch_size: int, device: torch.device
    ) -> None:
        self._split, self._schedule, self._device = split, schedule, device
        self._drawn = schedule.batch_size or batch_size
        self._parts, rest = divmod(batch_size, self._drawn)
        if rest:
            raise ValueError(
                f"batches of {batch_size} images can't be made of the schedule's batches of {self._drawn}; give a"
                f" multiple of {self._drawn}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch; images that fill no batch are left out."""
        return self._split.num_steps(self._drawn) // self._parts

    def epoch(self, number: int, *, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, C, H, W) and labels (batch,) of one epoch of the training, from `first_step` on."""
        batches = self._split.train_batches(
            batch_size=self._drawn, seed=self._schedule.seed, epoch=self._schedule.epoch(number),
            device=self._device, start_step=first_step * self._parts,
        )  # fmt: skip
        if self._parts == 1:
            yield from ((images, labels) for images, labels, _ in batches)
            return
        while len(parts := list(itertools.islice(batches, self._parts))) == self._parts:
            yield torch.cat([images for images, *_ in parts]), torch.cat([labels for _, labels, _ in parts])

    def teacher_logits(self, teacher: Teacher, images: Tensor, *, epoch: int, step: int) -> Tensor:
        """Return the teacher's logits (batch, classes) for the images of that step."""
        parts = torch.split(images, self._drawn)
        epoch, first = self._schedule.epoch(epoch), step * len(parts)
        return torch.cat([teacher.logits(part, epoch=epoch, step=first + i) for i, part in enumerate(parts)])
