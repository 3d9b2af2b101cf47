"""Images that are decoded as they are needed: folders of large images, and the user's own torch data sets."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepreduce.data.images import Split, hashed
from deepreduce.errors import DataError
from deepreduce.randomness import derived_generator, derived_seed

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in [0, 1]: what torchvision's pretrained weights expect."""

_EVAL_MARGIN = 256 / 224  # an evaluated image is the centre of one resized to this times the input size


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageItems:
    """Images by number. `train_items[i]` and `eval_items[i]` are (image (C, H, W) float32, class).

    The first may be augmented at random, the second is not; `indices` are the numbers that belong to this part.
    """

    train_items: Dataset[tuple[Tensor, int]]
    eval_items: Dataset[tuple[Tensor, int]]
    all_labels: Tensor
    image_shape: tuple[int, int, int]
    identity: str
    indices: Tensor

    @property
    def labels(self) -> Tensor:
        """The classes (images,) of this part."""
        return self.all_labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> ImageItems:
        """The images at `indices` of this part, in their order."""
        return replace(self, indices=self.indices[indices])

    def fingerprint(self) -> str:
        """Short hash that identifies the images without decoding them."""
        return hashed([self.identity, str(self.indices.tolist()), str(self.labels.tolist())])


class LoaderSplit(Split):
    """A part of a data set that a `DataLoader` reads, with `workers` processes (0: in this one)."""

    def __init__(self, items: ImageItems, *, workers: int) -> None:
        self._items, self._workers = items, workers

    def __len__(self) -> int:
        return len(self._items)

    @property
    def labels(self) -> Tensor:
        return self._items.labels

    def train_batches(
        self, *, batch_size: int, seed: int, epoch: int, device: torch.device, start_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        order = torch.randperm(len(self), generator=derived_generator(seed, epoch, "order"))
        steps = [
            order[step * batch_size : (step + 1) * batch_size]
            for step in range(start_step, self.num_steps(batch_size))
        ]
        seeded = _SeededItems(self._items.train_items, seed=derived_seed(seed, epoch, "augment"))
        yield from self._batches(seeded, steps, device)

    def eval_batches(self, *, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        steps = list(torch.split(torch.arange(len(self)), batch_size))
        for images, labels, _ in self._batches(self._items.eval_items, steps, device):
            yield images, labels

    def _batches(
        self, items: Dataset[tuple[Tensor, int]], steps: Sequence[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        pinned = device.type == "cuda"
        loader = DataLoader(
            items,
            batch_sampler=[self._items.indices[step].tolist() for step in steps],
            num_workers=self._workers,
            pin_memory=pinned,
        )
        for (images, labels), step in zip(loader, steps, strict=True):
            yield images.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned), step


class _SeededItems(Dataset[tuple[Tensor, int]]):
    """Items whose random augmentation follows from a seed and the item's number, whichever process makes it."""

    def __init__(self, items: Dataset[tuple[Tensor, int]], *, seed: int) -> None:
        self._items, self._seed = items, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        python_state = random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(self._seed, index))
                random.seed(derived_seed(self._seed, index))
                return self._items[index]
        finally:
            random.setstate(python_state)


class _Files(Dataset[tuple[Tensor, int]]):
    """Image files, decoded to RGB and transformed."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self._paths, self._labels, self._transform = paths, labels, transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, UnidentifiedImageError

        path = self._paths[index]
        try:
            with Image.open(path) as image:
                return self._transform(image.convert("RGB")), int(self._labels[index])
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} can't be read as an image: {error}") from error


def items_from_files(paths: Sequence[Path], labels: Tensor, *, size: int, flip: bool) -> ImageItems:
    """Files as square RGB images of `size` pixels: random crops to train on, centre crops to evaluate."""
    from torchvision import transforms

    finish = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    train = transforms.Compose([transforms.RandomResizedCrop(size), *mirror, *finish])
    evaluate = transforms.Compose(
        [transforms.Resize(round(size * _EVAL_MARGIN)), transforms.CenterCrop(size), *finish]
    )
    return ImageItems(
        train_items=_Files(paths, labels, train),
        eval_items=_Files(paths, labels, evaluate),
        all_labels=labels,
        image_shape=(3, size, size),
        identity=hashed([f"{path.name} {os.path.getsize(path)}" for path in paths] + [str(size)]),
        indices=torch.arange(len(paths)),
    )


class _UserItems(Dataset[tuple[Tensor, int]]):
    """A user's data set, with its items checked and made float32."""

    def __init__(self, dataset: Dataset[Any], name: str) -> None:
        self._dataset, self._name = dataset, name

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return _checked_item(self._dataset[index], f"{self._name}[{index}]")


def _checked_item(item: Any, name: str) -> tuple[Tensor, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{name} is a {type(item).__name__}; a data set must give (image, class) pairs")
    image, label = item
    if not isinstance(image, Tensor) or image.dim() != 3:
        raise DataError(
            f"{name}'s image is a {type(image).__name__}; it must be a tensor (channels, height, width): give the"
            " data set a transform such as torchvision.transforms.ToTensor()"
        )
    values = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    if not bool(torch.isfinite(values).all()):
        raise DataError(f"{name}'s image holds NaN or infinite values")
    return values, int(label)


def items_from_dataset(dataset: Dataset[Any], name: str) -> ImageItems:
    """A user's map-style data set of (image tensor (C, H, W), class); its own transforms stay in force."""
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(f"{name} has no length; give a map-style torch data set, not an iterable one") from error
    if not count:
        raise DataError(f"{name} is empty")
    items = _UserItems(dataset, name)
    first, _ = items[0]
    targets = getattr(dataset, "targets", None)
    labels = targets if targets is not None and len(targets) == count else [items[i][1] for i in range(count)]
    channels, height, width = first.shape
    return ImageItems(
        train_items=items,
        eval_items=items,
        all_labels=torch.as_tensor(labels).long(),
        image_shape=(channels, height, width),
        identity=hashed([type(dataset).__qualname__, str(count), str(float(first.double().sum()))]),
        indices=torch.arange(count),
    )
