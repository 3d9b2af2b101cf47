"""Prepare raw images for training: limit, split off validation, resize, standardise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepreduce.data.images import Augmentation, DataFacts, ImageData, Images, RawData, draw_balanced, hash_texts
from deepreduce.errors import DataError
from deepreduce.utils.seed import derived_generator


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Options for preparing raw images; None leaves a property as it is.

    `train_limit` and `test_limit` images are drawn from each part, and the fraction `val_fraction` of the training
    images becomes the validation part; every class keeps its share. `image_size` resizes to squares of that many
    pixels. `channels` repeats grey images to that many channels. `pad` (pixels) and `flip` override the data set's
    usual augmentation. `workers` processes decode files.
    """

    val_fraction: float = 0.1
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    channels: int | None = None
    pad: int | None = None
    flip: bool | None = None
    workers: int = 0

    def val_images(self, train_images: int, name: str) -> int:
        """Return the number of validation images of `train_images`. Raises `DataError` if a part would be empty."""
        count = round(self.val_fraction * train_images)
        if not 0 < count < train_images:
            raise DataError(
                f"{name}: a validation part of {self.val_fraction:g} of {train_images} training images leaves one"
                " part empty; change data.val_fraction"
            )
        return count

    def facts(self, facts: DataFacts, name: str) -> DataFacts:
        """Return the sizes of a data set after preparation, from the sizes of the raw one (`val_images` 0).

        Raises `DataError` for a limit above the number of images, and if a part would be empty.
        """
        train = _limit_count(self.train_limit, facts.train_images, name=name, key="train_limit")
        test = _limit_count(self.test_limit, facts.test_images, name=name, key="test_limit")
        val = self.val_images(train, name)
        channels, height, width = facts.image_shape
        size = (height, width) if self.image_size is None else (self.image_size, self.image_size)
        return DataFacts(
            num_classes=facts.num_classes,
            image_shape=(self.channels or channels, *size),
            train_images=train - val,
            val_images=val,
            test_images=test,
        )


def prepare(raw: RawData, preparation: Preparation | None = None, *, seed: int) -> ImageData:
    """Limit, split, resize and standardise raw images.

    `seed` draws the training images and the validation part; a limited test part is the same for every seed. Raises
    `DataError` for a limit above the number of images, if a part would be empty, and for an option that the kind of
    data set does not have.
    """
    wanted = preparation or Preparation()
    whole = _limit(raw.train, wanted.train_limit, name=raw.name, key="train_limit", seed=seed)
    test = _limit(raw.test, wanted.test_limit, name=raw.name, key="test_limit", seed=0)
    count = wanted.val_images(len(whole), raw.name)
    chosen = draw_balanced(whole.labels, count, generator=derived_generator(seed, "validation"))
    rest = torch.ones(len(whole), dtype=torch.bool)
    rest[chosen] = False
    parts = {"train": whole.take(rest.nonzero().squeeze(1)), "val": whole.take(chosen), "test": test}
    if wanted.image_size is not None:
        parts = {name: part.resize(wanted.image_size, name=raw.name) for name, part in parts.items()}
    if wanted.channels is not None:
        parts = {name: part.repeat_channels(wanted.channels, name=raw.name) for name, part in parts.items()}
    train = parts["train"] = parts["train"].override_augmentation(pad=wanted.pad, flip=wanted.flip, name=raw.name)
    augmentation = Augmentation(
        pad=raw.augmentation.pad if wanted.pad is None else wanted.pad,
        flip=raw.augmentation.flip if wanted.flip is None else wanted.flip,
    )
    scale = train.find_standardisation()
    splits = {name: part.split(augmentation, scale, workers=wanted.workers) for name, part in parts.items()}
    identity = [parts[name].fingerprint() for name in parts] + [repr(augmentation), str(raw.num_classes)]
    return ImageData(
        name=raw.name,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        num_classes=raw.num_classes,
        image_shape=train.image_shape,
        fingerprint=hash_texts(identity),
        standardisation=scale,
    )


def _limit(images: Images, limit: int | None, *, name: str, key: str, seed: int) -> Images:
    count = _limit_count(limit, len(images), name=name, key=key)
    if count == len(images):
        return images
    return images.take(draw_balanced(images.labels, count, generator=derived_generator(seed, key)))


def _limit_count(limit: int | None, available: int, *, name: str, key: str) -> int:
    if limit is not None and limit > available:
        raise DataError(f"data.{key} is {limit:,}; {name} has {available:,} such images; give at most that many")
    return available if limit is None else limit
