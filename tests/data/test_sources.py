"""Data sets by name, from real files, and every way in which these can be wrong."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepreduce.data import DATASETS, Augmentation, ImageArrays, Preparation, known_facts, load_source, prepare
from deepreduce.data.sources import KNOWN_FACTS
from deepreduce.errors import DataError
from tests.helpers.images import arrays, random_images, save_image

# -- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digit", "Digits", "cifar", "cifar10:here", "digits:x", "mnist", "", ":"])
def test_an_unknown_data_set_is_refused_with_all_known_ones(name: str) -> None:
    with pytest.raises(DataError, match=r"unknown data set .*known: digits, cifar10"):
        load_source(name)
    assert known_facts(name) is None


@pytest.mark.parametrize("kind", ["npz", "imagefolder", "tinyimagenet"])
def test_a_data_set_of_files_needs_its_place(kind: str) -> None:
    for name in (kind, f"{kind}:"):
        with pytest.raises(DataError, match=f"lacks its path; give {kind}:"):
            load_source(name)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load_source("digit")
    assert all(name.partition(":")[0] in str(DATASETS) for name in KNOWN_FACTS)


# -- digits -------------------------------------------------------------------------------------------------


def test_digits_are_as_many_as_is_known_of_them() -> None:
    digits = load_source("digits")
    known = KNOWN_FACTS["digits"]
    assert digits.num_classes == known.num_classes == len(set(digits.train.labels.tolist()))
    assert digits.train.image_shape == digits.test.image_shape == known.image_shape
    assert (len(digits.train), len(digits.test)) == (known.train_images, known.test_images)
    prepared = prepare(digits, Preparation(image_size=16, channels=3, train_limit=500), seed=0)
    assert prepared.facts == Preparation(image_size=16, channels=3, train_limit=500).facts(known, "digits")


def test_digits_are_the_whole_range_of_bytes_and_never_mirrored() -> None:
    digits = load_source("digits")
    assert isinstance(digits.train, ImageArrays)
    assert digits.train.images.dtype == torch.uint8
    assert (int(digits.train.images.min()), int(digits.train.images.max())) == (0, 255)
    assert digits.augmentation == Augmentation(pad=1, flip=False)


def test_no_digit_is_in_the_training_and_the_test_part() -> None:
    from sklearn.datasets import load_digits

    digits = load_source("digits")
    assert isinstance(digits.train, ImageArrays) and isinstance(digits.test, ImageArrays)
    parts = [sorted(image.numpy().tobytes() for image in part.images) for part in (digits.train, digits.test)]
    originals = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(parts[0] + parts[1]) == sorted(image.tobytes() for image in originals)
    sizes = torch.bincount(digits.test.labels)
    assert int(sizes.max() - sizes.min()) <= 2


# -- npz ----------------------------------------------------------------------------------------------------


def npz(folder: Path, **changes: Any) -> str:
    """A good npz file with some arrays changed, or left out (None)."""
    content = {key: value for key, value in (arrays() | changes).items() if value is not None}
    np.savez(folder / "data.npz", **content)
    return f"npz:{folder / 'data.npz'}"


def test_an_npz_file_gives_its_images_channels_first(tmp_path: Path) -> None:
    data = load_source(npz(tmp_path))
    assert isinstance(data.train, ImageArrays)
    assert torch.equal(data.train.images, random_images(20))
    assert data.num_classes == 3
    assert data.train.labels.dtype == torch.int64


def test_grey_images_may_come_without_channels(tmp_path: Path) -> None:
    content = arrays()
    grey = {key: content[key][..., 0] for key in ("x_train", "x_test")}
    data = load_source(npz(tmp_path, **grey))
    assert data.train.image_shape == (1, 6, 6)
    assert isinstance(data.train, ImageArrays)
    assert torch.equal(data.train.images, random_images(20)[:, :1])


def test_names_of_classes_say_how_many_there_are(tmp_path: Path) -> None:
    names = np.array(["a", "b", "c", "d", "e"])
    assert load_source(npz(tmp_path, classes=names)).num_classes == 5
    with pytest.raises(DataError, match="with 2 classes they must lie in 0 to 1"):
        load_source(npz(tmp_path, classes=names[:2]))
    with pytest.raises(DataError, match="must lie in"):
        load_source(npz(tmp_path, classes=np.array(2)))


good = arrays()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, r"lacks x_train; it needs x_train, y_train, x_test, y_test and has"),
        ({"y_train": None, "y_test": None}, "lacks y_train, y_test"),
        ({"x_train": good["x_train"].astype(np.float32)}, "train images are float32; they must be uint8"),
        ({"x_train": good["x_train"].astype(np.int64)}, "train images are int64; they must be uint8"),
        ({"x_test": good["x_test"].transpose(0, 3, 1, 2)[:, :2]}, r"test images are of shape \(10, 2, 6, 6\)"),
        ({"x_train": good["x_train"].reshape(20, -1)}, r"train images are of shape \(20, 108\)"),
        ({"x_train": good["x_train"][:, :0]}, r"of shape \(20, 0, 6, 3\)"),
        ({"x_train": good["x_train"][:0], "y_train": good["y_train"][:0]}, "no training images"),
        ({"x_test": good["x_test"][:0], "y_test": good["y_test"][:0]}, "no test images"),
        ({"x_test": good["x_test"][:, :4]}, "both must be of one size"),
        ({"y_train": good["y_train"][:7]}, "20 images need 20 labels"),
        ({"y_train": good["y_train"][:, None]}, r"labels are of shape \(20, 1\)"),
        ({"y_train": good["y_train"] + 0.5}, "fractions"),
        ({"y_train": np.full(20, np.nan)}, "NaN"),
        ({"y_train": np.array(["cat"] * 20)}, "whole numbers"),
        ({"y_train": np.zeros(20, dtype=int), "y_test": np.zeros(10, dtype=int)}, "two classes"),
        ({"y_train": good["y_train"] - 1}, "run from -1"),
        ({"y_train": good["y_train"] + 10**6}, "number the classes from 0"),
        ({"y_train": good["y_train"] + 2**60}, "number the classes from 0"),
        ({"y_test": good["y_test"] + 1}, "test labels run from 1 to 3"),
        ({"y_train": good["y_train"] // 2 * 2}, "class 1 is in the test images only"),
        ({"y_train": np.array([{}] * 20, dtype=object)}, "can't be read as an npz file"),
        ({"classes": np.array([{}], dtype=object)}, "can't be read as an npz file"),
    ],
)
def test_a_wrong_npz_file_is_one_clear_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    name = npz(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_source(name)
    assert str(tmp_path / "data.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("x_train\n")
    elif how == "pickled":
        path.write_bytes(pickle.dumps({"x_train": 1}))
    elif how == "single array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif how == "no array inside":
        with zipfile.ZipFile(path, "w") as file:
            for key in arrays():
                file.writestr(f"{key}.npy", "hello")
    elif how == "huge shape":
        with zipfile.ZipFile(path, "w") as file:
            header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999, 8, 8), }\n"
            for key in arrays():
                file.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()


@pytest.mark.parametrize(
    "how",
    ["truncated", "empty", "text", "pickled", "single array", "no array inside", "huge shape", "folder", "missing"],
)
def test_a_damaged_npz_file_is_named_in_one_line(tmp_path: Path, how: str) -> None:
    name = npz(tmp_path)
    damaged(tmp_path / "data.npz", how)
    with pytest.raises(DataError) as caught:
        load_source(name)
    assert str(tmp_path / "data.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offset", range(40, 1000, 120))
def test_a_compressed_npz_file_with_wrong_bytes_is_named_in_one_line(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    content[offset : offset + 16] = b"\xff" * 16
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz"):
        load_source(f"npz:{path}")


def test_nothing_in_an_npz_file_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "sprung").touch, ())

    np.savez(tmp_path / "data.npz", **(arrays() | {"y_train": np.array([Trap()] * 20, dtype=object)}))
    with pytest.raises(DataError):
        load_source(f"npz:{tmp_path / 'data.npz'}")
    (tmp_path / "data.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        load_source(f"npz:{tmp_path / 'data.npz'}")
    assert not (tmp_path / "sprung").exists()


# -- CIFAR --------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 in torchvision's form with 20 images a file; torchvision's list of checksums is made to fit."""
    from torchvision import datasets

    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    lists = {}
    for name in ("train_list", "test_list"):
        lists[name] = []
        for file, _ in getattr(datasets.CIFAR10, name):
            pixels = random_images(20, size=32, seed=len(lists)).flatten(1).numpy()
            content = pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(20)]})
            (folder / file).write_bytes(content)
            lists[name].append([file, hashlib.md5(content).hexdigest()])
        monkeypatch.setattr(datasets.CIFAR10, name, lists[name])
    meta = pickle.dumps({"label_names": list("abcdefghij")})
    (folder / "batches.meta").write_bytes(meta)
    checksum = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()}
    monkeypatch.setattr(datasets.CIFAR10, "meta", checksum)
    return tmp_path


def test_cifar_is_read_channels_first_from_where_torchvision_keeps_it(cifar: Path) -> None:
    data = load_source("cifar10", root=str(cifar))
    assert isinstance(data.train, ImageArrays)
    assert (len(data.train), len(data.test), data.num_classes) == (100, 20, 10)
    assert torch.equal(data.train.images[:20], random_images(20, size=32, seed=1))
    assert data.augmentation == Augmentation(pad=4, flip=True)
    assert data.train.image_shape == KNOWN_FACTS["cifar10"].image_shape


def test_a_corrupt_cifar_file_is_not_unpickled(cifar: Path) -> None:
    file = next((cifar / "cifar-10-batches-py").glob("data_batch_1"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"or incomplete; name its folder with data\.root"):
        load_source("cifar10", root=str(cifar))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_says_where_it_was_looked_for_and_how_to_fetch_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is missing from {tmp_path}.* data.root, .* data.download=true"):
        load_source(name, root=str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_real_cifar100_is_as_many_as_is_known_of_it() -> None:
    path = os.environ.get("DEEPREDUCE_CIFAR100_NPZ")
    if path is None:
        pytest.skip("DEEPREDUCE_CIFAR100_NPZ does not name CIFAR-100 as an npz file")
    data, known = load_source(f"npz:{path}"), KNOWN_FACTS["cifar100"]
    assert (data.num_classes, data.train.image_shape) == (known.num_classes, known.image_shape)
    assert (len(data.train), len(data.test)) == (known.train_images, known.test_images)
    assert torch.bincount(data.train.labels).tolist() == [500] * 100
    assert torch.bincount(data.test.labels).tolist() == [100] * 100
    prepared = prepare(data, seed=0)
    assert torch.bincount(prepared.val.labels).tolist() == [50] * 100
    (images, _, _), *_ = prepared.train.train_batches(batch_size=256, seed=0, epoch=0, device=torch.device("cpu"))
    assert abs(float(images.mean())) < 0.5 and 0.7 < float(images.std()) < 1.5


# -- folders of images --------------------------------------------------------------------------------------


def tiny_imagenet(folder: Path, *, annotated: bool = True, per_class: int = 3) -> Path:
    classes = ["n01", "n02", "n03"]
    lines = []
    for c, name in enumerate(classes):
        for i in range(per_class):
            save_image(folder / "train" / name / "images" / f"{name}_{i}.JPEG", seed=10 * c + i)
        place = folder / "val" / ("images" if annotated else name) / f"val_{c}.JPEG"
        # some of the real ones are grey
        save_image(place, seed=100 + c, mode="L" if c == 1 else "RGB")
        lines.append(f"val_{c}.JPEG\t{name}\t0\t0\t62\t62")
    (folder / "train" / ".hidden").mkdir()
    if annotated:
        (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("annotated", [True, False])
def test_tiny_imagenet_is_read_as_unpacked_or_with_folders_of_classes(tmp_path: Path, annotated: bool) -> None:
    data = load_source(f"tinyimagenet:{tiny_imagenet(tmp_path, annotated=annotated)}")
    assert isinstance(data.train, ImageArrays)
    assert (len(data.train), len(data.test), data.num_classes) == (9, 3, 3)
    assert data.train.image_shape == KNOWN_FACTS["tinyimagenet"].image_shape
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.augmentation.flip


def test_a_wrong_tiny_imagenet_is_one_clear_line(tmp_path: Path) -> None:
    name = f"tinyimagenet:{tiny_imagenet(tmp_path)}"
    annotations = tmp_path / "val" / "val_annotations.txt"
    right = annotations.read_bytes()
    for wrong, message in (
        (b"val_0.JPEG\tn09\n", "n09"),
        (b"val_0.JPEG\n", "names no class"),
        (b"\xff\xfe\x00\n", "names no class"),
        (b"gone.JPEG\tn01\n", "gone.JPEG can't be read as an image"),
        (b"", "no test images"),
    ):
        annotations.write_bytes(wrong)
        with pytest.raises(DataError, match=message):
            load_source(name)
    annotations.write_bytes(right)
    save_image(tmp_path / "train" / "n01" / "images" / "large.JPEG", size=(65, 64))
    with pytest.raises(DataError, match=r"large.JPEG is of 65x64 pixels; tinyimagenet has 64x64"):
        load_source(name)


def image_folder(folder: Path, *, test: str = "test") -> Path:
    for c, name in enumerate(("cat", "dog")):
        for i in range(6):
            ending = ("png", "jpg", "bmp")[i % 3]
            save_image(folder / "train" / name / f"{i}.{ending}", size=(20 + i, 30), seed=10 * c + i)
        save_image(folder / test / name / "deep" / "0.PNG", size=(40, 25), seed=c, mode="RGBA" if c else "P")
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / ".cache").mkdir()
    return folder


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_of_images_of_any_size_and_mode_becomes_squares(tmp_path: Path, test: str) -> None:
    data = load_source(f"imagefolder:{image_folder(tmp_path, test=test)}", image_size=16)
    assert data.train.image_shape == (3, 16, 16)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    assert data.test.labels.tolist() == [0, 1]
    prepared = prepare(data, Preparation(val_fraction=0.25), seed=0)
    for images, labels in prepared.test.eval_batches(batch_size=2, device=torch.device("cpu")):
        assert images.shape == (2, 3, 16, 16)
        assert labels.tolist() == [0, 1]


def test_a_class_that_only_the_test_part_has_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path)
    save_image(tmp_path / "test" / "fox" / "0.png")
    with pytest.raises(DataError, match=r"has the class 'fox', which .*train does not have"):
        load_source(f"imagefolder:{tmp_path}")


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path)
    (tmp_path / "train" / "fox").mkdir()
    with pytest.raises(DataError, match=r"fox holds no images; every class needs some"):
        load_source(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("kind", ["imagefolder", "tinyimagenet"])
def test_missing_folders_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=f"there is no folder {tmp_path}/gone"):
        load_source(f"{kind}:{tmp_path}/gone")
    with pytest.raises(DataError, match=f"{tmp_path} has no train/"):
        load_source(f"{kind}:{tmp_path}")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path} has no val/"):
        load_source(f"{kind}:{tmp_path}")
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"no (training )?images"):
        load_source(f"{kind}:{tmp_path}")


def test_an_image_cut_short_is_named(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path)
    for number, content in enumerate((b"", b"not an image", None)):
        image = tmp_path / "train" / "n02" / "images" / "n02_1.JPEG"
        image.write_bytes(save_image(image).read_bytes()[:300] if content is None else content)
        with pytest.raises(DataError, match=r"n02_1.JPEG can't be read as an image") as caught:
            load_source(f"tinyimagenet:{tmp_path}")
        assert "\n" not in str(caught.value), number


def test_a_folder_without_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path)

    def refused(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(DataError, match="Permission denied"):
        load_source(f"imagefolder:{tmp_path}")
