"""Images that are decoded when they are needed give the same batches however they are read."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deepreduce.data import ImageData, LoaderSplit, Preparation, load_source, prepare
from deepreduce.data.loaders import read_rgb
from deepreduce.errors import DataError
from tests.helpers.images import CPU, save_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    for part, count in (("train", 12), ("test", 3)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                save_image(path / part / name / f"{i:02}.png", size=(24, 20), seed=100 * c + i)
    return path


def data(folder: Path, *, workers: int = 0) -> ImageData:
    raw = load_source(f"imagefolder:{folder}", image_size=16)
    return prepare(raw, Preparation(val_fraction=0.25, workers=workers), seed=0)


def train_batches(images: ImageData, *, epoch: int = 0, start_step: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(images.train.train_batches(batch_size=4, seed=0, epoch=epoch, device=CPU, start_step=start_step))


def equal(one: Iterator[tuple[Tensor, ...]], other: Iterator[tuple[Tensor, ...]]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_worker_processes_do_not_change_a_batch(folder: Path) -> None:
    alone, helped = data(folder), data(folder, workers=2)
    assert isinstance(helped.train, LoaderSplit)
    assert equal(iter(train_batches(alone)), iter(train_batches(helped)))
    assert equal(alone.val.eval_batches(batch_size=4, device=CPU), helped.val.eval_batches(batch_size=4, device=CPU))
    assert alone.fingerprint == helped.fingerprint


def test_a_step_is_the_same_wherever_the_epoch_was_entered(folder: Path) -> None:
    images = data(folder)
    whole = train_batches(images)
    assert len(whole) == 4
    for start in range(5):
        assert equal(iter(whole[start:]), iter(train_batches(images, start_step=start)))
    assert not equal(iter(whole), iter(train_batches(images, epoch=1)))


def test_an_epoch_shows_each_image_at_most_once_with_its_label(folder: Path) -> None:
    images = data(folder)
    seen = []
    for batch, labels, indices in train_batches(images):
        assert batch.shape == (4, 3, 16, 16)
        assert torch.equal(labels, images.train.labels[indices])
        seen += indices.tolist()
    assert sorted(seen) == sorted(set(seen))


def test_evaluation_shows_the_same_centre_every_time(folder: Path) -> None:
    images = data(folder)
    assert equal(
        images.test.eval_batches(batch_size=4, device=CPU), images.test.eval_batches(batch_size=4, device=CPU)
    )
    labels = torch.cat([labels for _, labels in images.test.eval_batches(batch_size=4, device=CPU)])
    assert torch.equal(labels, images.test.labels)


def test_reading_leaves_the_global_random_states_as_they_were(folder: Path) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    for workers in (0, 1):
        train_batches(data(folder, workers=workers))
        list(data(folder, workers=workers).test.eval_batches(batch_size=4, device=CPU))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_turns_out_to_be_corrupt_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(4):
                save_image(tmp_path / part / name / f"{i}.png", size=(16, 16))
    broken = tmp_path / "test" / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:100])
    images = data(tmp_path, workers=workers)
    with pytest.raises(DataError, match=r"dog/2.png can't be read as an image") as caught:
        list(images.test.eval_batches(batch_size=2, device=CPU))
    assert "\n" not in str(caught.value)


def test_images_are_mirrored_unless_that_is_forbidden(tmp_path: Path) -> None:
    """The left half of every image is dark and the right one bright, so the sum tells which way it is turned."""
    for part in ("train", "test"):
        for c, name in enumerate(("cat", "dog")):
            for i in range(20):
                path = save_image(tmp_path / part / name / f"{i:02}.png", size=(16, 16), seed=100 * c + i)
                pixels = np.zeros((16, 16, 3), dtype=np.uint8)
                pixels[:, 8:] = 200
                Image.fromarray(pixels).save(path)
    turned = {}
    for flip in (None, True, False):
        raw = load_source(f"imagefolder:{tmp_path}", image_size=16)
        images = prepare(raw, Preparation(val_fraction=0.25, flip=flip), seed=0)
        (batch, _, _), *_ = images.train.train_batches(batch_size=30, seed=0, epoch=0, device=CPU)
        turned[flip] = int((batch[..., 0].mean(dim=(1, 2)) > batch[..., -1].mean(dim=(1, 2))).sum())
    assert turned[None] == turned[True] > 5
    assert turned[False] == 0


def test_files_are_cropped_in_their_own_way(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data\.pad is for images in memory"):
        prepare(load_source(f"imagefolder:{folder}"), Preparation(pad=2), seed=0)


def test_other_files_are_another_data_set(folder: Path, tmp_path: Path) -> None:
    before = data(folder).fingerprint
    assert data(folder).fingerprint == before
    raw = load_source(f"imagefolder:{folder}", image_size=24)
    assert prepare(raw, Preparation(val_fraction=0.25), seed=0).fingerprint != before


@pytest.mark.parametrize("size", [(9_000, 9_000), (1, 100_000), (100_000, 1)])
def test_an_image_of_too_many_pixels_or_too_long_is_refused_before_it_is_unpacked(
    tmp_path: Path, size: tuple[int, int]
) -> None:

    path = tmp_path / "bomb.png"
    Image.new("1", size).save(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.png is of .* pixels; give images of at most") as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value) and tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
