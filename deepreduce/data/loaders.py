"""Splits of images that are decoded on demand: folders of large images, and the user's own torch data sets."""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from deepreduce.data.images import (
    Augmentation,
    Split,
    Standardisation,
    channels_error,
    first_line,
    hash_texts,
    labels_from_array,
)
from deepreduce.errors import DataError
from deepreduce.utils.seed import derived_generator, derived_seed
from deepreduce.utils.text import one_line, shown

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's pixels in [0, 1], which torchvision's pretrained weights expect."""

_MOST_PIXELS, _MOST_ASPECT = 2**26, 50

_EVAL_MARGIN = 256 / 224  # evaluation resizes images to this multiple of the input size and crops their centre


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageItems:
    """Images decoded on demand: `train_items[i]` and `eval_items[i]` are (image (C, H, W) float32, class).

    `train_items` may be augmented at random; random transforms of `eval_items` draw the same numbers every time.
    `unmirrored_items` are augmented like `train_items` but never flipped; None if the augmentation is the user's own.
    `indices` are the items that belong to this part; `all_labels` are the classes of all items. `identity` identifies
    all items without decoding them.
    """

    train_items: Dataset[tuple[Tensor, int]]
    eval_items: Dataset[tuple[Tensor, int]]
    all_labels: Tensor
    image_shape: tuple[int, int, int]
    identity: str
    indices: Tensor
    unmirrored_items: Dataset[tuple[Tensor, int]] | None = None
    standardisation: Standardisation | None = None

    @property
    def labels(self) -> Tensor:
        """Classes (images,) int64 of this part."""
        return self.all_labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> ImageItems:
        """Return the images at `indices` of this part, in the order of `indices`."""
        return replace(self, indices=self.indices[indices])

    def fingerprint(self) -> str:
        """Return a short hash that identifies the images of this part without decoding them."""
        return hash_texts([self.identity, str(self.indices.tolist()), str(self.labels.tolist())])

    def resize(self, size: int, *, name: str) -> ImageItems:
        """Return the images if they are squares of `size` pixels. Raises `DataError` for others."""
        if self.image_shape[1:] != (size, size):
            raise DataError(f"{name}: data.image_size can't resize a torch data set; resize in its own transform")
        return self

    def repeat_channels(self, channels: int, *, name: str) -> ImageItems:
        """Return the images if they have `channels` channels. Raises `DataError` for others."""
        if self.image_shape[0] != channels:
            raise channels_error(name, self.image_shape[0], channels)
        return self

    def override_augmentation(self, *, pad: int | None, flip: bool | None, name: str) -> ImageItems:
        """Return the images flipped or not, as `flip` says. Raises `DataError` for what their transforms fix."""
        if pad is not None:
            raise DataError(
                f"{name}: data.pad is for images in memory; leave it out, these images have their own crops"
            )
        if flip is None:
            return self
        if self.unmirrored_items is None:
            raise DataError(f"{name}: data.flip can't change a torch data set; flip in its own transform, or don't")
        return self if flip else replace(self, train_items=self.unmirrored_items)

    def find_standardisation(self) -> Standardisation | None:
        """Return the standardisation of the items' transforms; None if those are the user's own."""
        return self.standardisation

    def split(self, augmentation: Augmentation, scale: Standardisation | None, *, workers: int) -> LoaderSplit:
        """Return the split; the items bring their own augmentation and standardisation."""
        return LoaderSplit(self, workers=workers)


class LoaderSplit(Split):
    """A split read by a `DataLoader` with `workers` processes (0: in the calling process)."""

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
        seeded = _SeededItems(self._items.eval_items, seed=derived_seed("evaluation"))
        for images, labels, _ in self._batches(seeded, steps, device):
            yield images, labels

    def _batches(
        self, items: _SeededItems, steps: Sequence[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        pinned = device.type == "cuda"
        loader = DataLoader(
            items,
            batch_sampler=[self._items.indices[step].tolist() for step in steps],
            num_workers=self._workers,
            pin_memory=pinned,
            collate_fn=_collate,
            generator=torch.Generator(),  # the default would draw from the global random state
        )
        for batch, step in zip(loader, steps, strict=True):
            if isinstance(batch, DataError):
                raise batch
            images, labels = batch
            yield images.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned), step


@contextlib.contextmanager
def _seed_randomness(seed: int) -> Iterator[None]:
    """Seed the random numbers of torch (on the CPU), Python and NumPy inside; restore their states afterwards."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


class _SeededItems(Dataset[tuple[Tensor, int] | DataError]):
    """Items whose random augmentation depends on a seed and the item's index only, in whichever process it runs.

    A `DataError` is returned as an item: raised in a worker, its message would become a traceback of many lines.
    """

    def __init__(self, items: Dataset[tuple[Tensor, int]], *, seed: int) -> None:
        self._items, self._seed = items, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        with _seed_randomness(derived_seed(self._seed, index)):
            try:
                return self._items[index]
            except DataError as error:
                return error


def _collate(items: list[tuple[Tensor, int] | DataError]) -> Any:
    """Return images (batch, C, H, W) and labels (batch,), or the first error among the items."""
    failed = next((item for item in items if isinstance(item, DataError)), None)
    return default_collate(items) if failed is None else failed


def read_rgb(path: Path) -> Image:
    """Read an image file as RGB. Raises `DataError` with its path if it can't be decoded, or is too large or long."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of damaged metadata
            with Image.open(path) as image:
                _check_size(path, *image.size)
                return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # decoders raise errors of any kind, SyntaxError among them
        raise DataError(f"{path} can't be read as an image: {one_line(first_line(error), 200)}") from error


def _check_size(path: Path, width: int, height: int) -> None:
    # a small file may stand for gigabytes of pixels; evaluation enlarges an image until its shorter side fits
    if width * height > _MOST_PIXELS or max(width, height) > _MOST_ASPECT * min(width, height):
        raise DataError(
            f"{path} is of {width:,}x{height:,} pixels; give images of at most {_MOST_PIXELS:,} pixels whose longer"
            f" side is at most {_MOST_ASPECT} times the shorter"
        )


class _Files(Dataset[tuple[Tensor, int]]):
    """A data set of image files, decoded to RGB and transformed."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self._paths, self._labels, self._transform = paths, labels, transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(read_rgb(self._paths[index])), int(self._labels[index])


def items_from_files(paths: Sequence[Path], labels: Tensor, *, size: int) -> ImageItems:
    """Return image files as square RGB images of `size` pixels, standardised as ImageNet.

    Training items are random resized crops, half of them mirrored; evaluation items are centre crops.
    """
    from torchvision import transforms

    finish = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    crop, flip = transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()
    evaluate = transforms.Compose(
        [transforms.Resize(round(size * _EVAL_MARGIN)), transforms.CenterCrop(size), *finish]
    )
    return ImageItems(
        train_items=_Files(paths, labels, transforms.Compose([crop, flip, *finish])),
        unmirrored_items=_Files(paths, labels, transforms.Compose([crop, *finish])),
        eval_items=_Files(paths, labels, evaluate),
        all_labels=labels,
        image_shape=(3, size, size),
        identity=hash_texts([f"{path.name} {os.path.getsize(path)}" for path in paths] + [str(size)]),
        indices=torch.arange(len(paths)),
        standardisation=Standardisation(
            mean=tuple(255 * value for value in IMAGENET_MEAN), std=tuple(255 * value for value in IMAGENET_STD)
        ),
    )


class _UserItems(Dataset[tuple[Tensor, int]]):
    """A user's data set with its items checked and converted to float32.

    Raises `DataError` for an item that is not (image, class) and for an image of another shape than the first.
    """

    def __init__(self, dataset: Dataset[Any], name: str, shape: torch.Size) -> None:
        self._dataset, self._name, self._shape = dataset, name, shape

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        name = f"{self._name}[{index}]"
        image, label = _checked_item(self._dataset[index], name)
        if image.shape != self._shape:
            raise DataError(
                f"{name}'s image is of shape {tuple(image.shape)}, the first of {tuple(self._shape)}; give all"
                " images one shape, as with torchvision.transforms.Resize((height, width))"
            )
        return image, label


def _checked_item(item: Any, name: str) -> tuple[Tensor, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{name} is a {type(item).__name__}; a data set must give (image, class) pairs")
    image, label = item
    if not isinstance(image, Tensor) or image.dim() != 3 or image.is_meta or image.layout != torch.strided:
        raise DataError(
            f"{name}'s image is a {type(image).__name__}; it must be a tensor (channels, height, width): give the"
            " data set a transform such as torchvision.transforms.ToTensor()"
        )
    if 0 in image.shape:
        raise DataError(f"{name}'s image of shape {tuple(image.shape)} has no pixels")
    values = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    if not bool(torch.isfinite(values).all()):
        raise DataError(f"{name}'s image holds NaN or infinite values")
    return values, _whole_number(label, name)


def _whole_number(label: Any, name: str) -> int:
    try:
        number = float(label)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = float("nan")
    if not number.is_integer():
        raise DataError(f"{name}'s class is {shown(label)}; it must be a whole number")
    return int(number)


def items_from_dataset(dataset: Dataset[Any], name: str) -> ImageItems:
    """Return a user's map-style data set of (image tensor (C, H, W), class), with the user's transforms.

    Without `targets` that agree with its items, every item is read once for its class. Raises `DataError` if the
    data set is empty, has no length, or holds an item that is not an image and a class.
    """
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(f"{name} has no length; give a map-style torch data set, not an iterable one") from error
    if not count:
        raise DataError(f"{name} is empty")
    with _seed_randomness(0):  # so that random transforms give the same fingerprint every time
        first, first_label = _checked_item(dataset[0], f"{name}[0]")
        items = _UserItems(dataset, name, first.shape)
        targets = _targets_of(dataset)
        # `targets` are the classes before a target_transform
        if targets is None or len(targets) != count or targets[0] != first_label or _transforms_targets(dataset):
            targets = np.asarray([items[i][1] for i in range(count)])
    channels, height, width = first.shape
    return ImageItems(
        train_items=items,
        eval_items=items,
        all_labels=labels_from_array(targets, name, count=count),
        image_shape=(channels, height, width),
        identity=hash_texts([type(dataset).__qualname__, str(count), str(float(first.double().sum()))]),
        indices=torch.arange(count),
    )


def _targets_of(dataset: Dataset[Any]) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the data set's own list of classes as an array (images,); None if it has no such list."""
    try:
        targets = np.asarray(getattr(dataset, "targets", None))
    except (TypeError, ValueError, RuntimeError):
        return None
    return targets if targets.ndim == 1 and targets.dtype.kind in "iuf" else None


def _transforms_targets(dataset: Dataset[Any]) -> bool:
    return getattr(dataset, "target_transform", None) is not None
