"""Data sets by name: built in, from torchvision, folders of images, arrays in an npz file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from deepreduce.data.arrays import ImageArrays, check_nhwc, images_from_nhwc
from deepreduce.data.images import (
    Augmentation,
    DataFacts,
    RawData,
    check_label_kind,
    draw_balanced,
    first_line,
)
from deepreduce.data.loaders import ImageItems, items_from_files, read_rgb
from deepreduce.data.npz import WANTED, NpzFile
from deepreduce.errors import DataError, unknown_name
from deepreduce.utils.seed import derived_generator

DATASETS: dict[str, str] = {
    "digits": "scikit-learn's 1,797 real 8x8 handwritten digits; built in, no download",
    "cifar10": "CIFAR-10, 32x32, 10 classes (data.root, data.download)",
    "cifar100": "CIFAR-100, 32x32, 100 classes (data.root, data.download)",
    "tinyimagenet:DIR": "TinyImageNet as unpacked, 64x64, 200 classes; its val part is the test part",
    "imagefolder:DIR": "DIR/train/CLASS/* and DIR/test (or val)/CLASS/*, of any size",
    "npz:FILE": "x_train, y_train, x_test, y_test: uint8 NHWC or NHW, whole numbers",
}
"""Data set's name -> description."""

KNOWN_FACTS: dict[str, DataFacts] = {
    "digits": DataFacts(
        num_classes=10, image_shape=(1, 8, 8), train_images=1438, val_images=0, test_images=359
    ),
    "cifar10": DataFacts(
        num_classes=10, image_shape=(3, 32, 32), train_images=50_000, val_images=0, test_images=10_000
    ),
    "cifar100": DataFacts(
        num_classes=100, image_shape=(3, 32, 32), train_images=50_000, val_images=0, test_images=10_000
    ),
    "tinyimagenet": DataFacts(
        num_classes=200, image_shape=(3, 64, 64), train_images=100_000, val_images=0, test_images=10_000
    ),
}  # fmt: skip
"""Sizes of well-known data sets, so that a run on them can be planned without their files."""

_DIGITS_TEST_FRACTION = 0.2
_IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif"}
_DEFAULT_FOLDER_SIZE = 224


def load_source(
    name: str, *, root: str | None = None, download: bool = False, image_size: int | None = None
) -> RawData:
    """Load the data set called `name`, one of `DATASETS`.

    `root` is the folder of torchvision's data sets (default ./data); `download` fetches missing files there.
    `image_size` (pixels, default 224) is for `imagefolder` only, whose images may be of any size. Raises `DataError`
    for an unknown name, missing files and malformed content.
    """
    kind, separator, place = name.partition(":")
    by_name: dict[str, Callable[[], RawData]] = {
        "digits": _digits,
        "cifar10": lambda: _cifar("cifar10", root, download=download),
        "cifar100": lambda: _cifar("cifar100", root, download=download),
    }
    by_place: dict[str, Callable[[Path], RawData]] = {
        "tinyimagenet": _tiny_imagenet,
        "imagefolder": lambda path: _image_folder(path, image_size or _DEFAULT_FOLDER_SIZE),
        "npz": _npz,
    }
    if kind in by_place and not place:
        raise DataError(f"data set {name!r} lacks its path; give {_name_format(kind)}")
    try:
        if not separator and kind in by_name:
            return by_name[kind]()
        if kind in by_place:
            return by_place[kind](Path(place).expanduser())
    except OSError as error:
        raise DataError(f"{name} can't be read: {first_line(error)}") from error
    raise DataError(unknown_name("data set", name, DATASETS))


def known_facts(name: str) -> DataFacts | None:
    """Return the raw sizes of a data set of `KNOWN_FACTS` without its files; None for any other data set."""
    return KNOWN_FACTS.get("tinyimagenet" if name.startswith("tinyimagenet:") else name)


def _name_format(kind: str) -> str:
    return next(name for name in DATASETS if name.startswith(kind))


def _digits() -> RawData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # scikit-learn's pixels run from 0 to 16
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.from_numpy(digits.target).long()
    everything = ImageArrays(images=images, labels=labels)
    # the same test images for every seed
    test = draw_balanced(labels, round(_DIGITS_TEST_FRACTION * len(labels)), generator=derived_generator("digits"))
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[test] = False
    return RawData(
        name="digits",
        train=everything.take(rest.nonzero().squeeze(1)),
        test=everything.take(test),
        num_classes=10,
        augmentation=Augmentation(pad=1, flip=False),  # a mirrored digit is no digit or another one
    )


def _cifar(name: str, root: str | None, *, download: bool) -> RawData:
    from torchvision import datasets

    folder = Path(root or "data").expanduser()
    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    parts = []
    for train in (True, False):
        try:
            part = source(str(folder), train=train, download=download)
        except (RuntimeError, OSError) as error:
            if download:
                raise DataError(f"{name} can't be downloaded to {folder}: {first_line(error)}") from error
            raise DataError(
                f"{name} is missing from {folder}, or incomplete; name its folder with data.root, or fetch it with"
                " data.download=true"
            ) from error
        parts.append(images_from_nhwc(np.asarray(part.data), np.asarray(part.targets), name))
    classes = {"cifar10": 10, "cifar100": 100}[name]
    return RawData(
        name=name, train=parts[0], test=parts[1], num_classes=classes, augmentation=Augmentation(pad=4, flip=True)
    )


def _npz(path: Path) -> RawData:
    file = NpzFile(path)
    for split in ("train", "test"):
        images, labels = file.headers[f"x_{split}"], file.headers[f"y_{split}"]
        check_nhwc(images.shape, images.dtype, f"{path}: {split}")
        check_label_kind(labels.shape, labels.dtype, f"{path}: {split}", count=images.shape[0])
    file.check_memory(WANTED)
    parts = [
        images_from_nhwc(file.load(f"x_{split}"), file.load(f"y_{split}"), f"{path}: {split}")
        for split in ("train", "test")
    ]
    classes = parts[0].labels
    num_classes = int(classes.max()) + 1 if len(classes) else 0
    if "classes" in file.headers:
        num_classes = math.prod(file.headers["classes"].shape)
    return RawData(
        name=f"npz:{path}",
        train=parts[0],
        test=parts[1],
        num_classes=num_classes,
        # mirroring might change the classes, which are unknown here
        augmentation=Augmentation(pad=parts[0].image_shape[1] // 8, flip=False),
    )


def _tiny_imagenet(folder: Path) -> RawData:
    train_folder, val_folder = folder / "train", folder / "val"
    _require(folder, [train_folder, val_folder], "tinyimagenet:DIR is the unpacked archive with train/ and val/")
    classes = _class_names(train_folder)
    number = {name: i for i, name in enumerate(classes)}
    train = [(path, number[name]) for name in classes for path in _images_below(train_folder / name)]
    annotations = val_folder / "val_annotations.txt"
    if annotations.is_file():
        rows = [
            line.split("\t")[:2]
            for line in annotations.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ]
        strange = [row for row in rows if len(row) < 2 or row[1] not in number]
        if strange:
            raise DataError(f"{annotations}: {strange[0]} names no class of {train_folder}; unpack the archive again")
        test = [(val_folder / "images" / name, number[label]) for name, label in rows]
    else:
        test = [(path, number[name]) for name in classes for path in _images_below(val_folder / name)]
    return RawData(
        name="tinyimagenet",
        train=_decode(train, "tinyimagenet", size=64),
        test=_decode(test, "tinyimagenet", size=64),
        num_classes=len(classes),
        augmentation=Augmentation(pad=8, flip=True),
    )


def _image_folder(folder: Path, size: int) -> RawData:
    test_folder = folder / "test" if (folder / "test").is_dir() else folder / "val"
    _require(folder, [folder / "train", test_folder], f"imagefolder:DIR is {DATASETS['imagefolder:DIR']}")
    classes = _class_names(folder / "train")
    strange = sorted(set(_class_names(test_folder)) - set(classes))
    if strange:
        raise DataError(
            f"{test_folder} has the class {strange[0]!r}, which {folder / 'train'} does not have; give both the same"
            " class folders"
        )

    def items(part: Path) -> ImageItems:
        found = [(path, i) for i, name in enumerate(classes) for path in _images_below(part / name)]
        if not found:
            raise DataError(f"{part} holds no images; it needs folders of classes with files such as .jpg or .png")
        labels = torch.tensor([label for _, label in found])
        missing = set(range(len(classes))) - set(labels.tolist())
        if missing and part.name == "train":
            raise DataError(f"{part / classes[min(missing)]} holds no images; every class needs some to train on")
        return items_from_files([path for path, _ in found], labels, size=size)

    return RawData(
        name=f"imagefolder:{folder}",
        train=items(folder / "train"),
        test=items(test_folder),
        num_classes=len(classes),
        augmentation=Augmentation(flip=True),
    )


def _require(folder: Path, parts: list[Path], meaning: str) -> None:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; {meaning}")
    for part in parts:
        if not part.is_dir():
            raise DataError(f"{folder} has no {part.name}/; {meaning}")


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_ENDINGS and path.is_file())


def _decode(found: list[tuple[Path, int]], name: str, *, size: int) -> ImageArrays:
    """Decode all images into memory. Raises `DataError` for one that is not of `size` x `size` pixels."""
    pixels = np.empty((len(found), size, size, 3), dtype=np.uint8)
    for i, (path, _) in enumerate(found):
        array = np.asarray(read_rgb(path))
        if array.shape != pixels.shape[1:]:
            raise DataError(f"{path} is of {array.shape[1]}x{array.shape[0]} pixels; {name} has {size}x{size}")
        pixels[i] = array
    return images_from_nhwc(pixels, np.array([label for _, label in found], dtype=np.int64), name)
