"""Batches of images in memory: order, augmentation and standardisation, against brute force."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deepreduce.data import ArraySplit, Augmentation, ImageArrays
from deepreduce.data.arrays import augment, standardisation
from deepreduce.errors import DataError
from deepreduce.utils.seed import derived_generator
from tests.helpers.images import CPU, cyclic_labels, random_images


def split(count: int = 23, *, pad: int = 0, flip: bool = False, dtype: torch.dtype = torch.uint8) -> ArraySplit:
    images = random_images(count).to(dtype)
    mean, std = standardisation(images)
    return ArraySplit(
        ImageArrays(images=images, labels=cyclic_labels(count)),
        mean=mean,
        std=std,
        augmentation=Augmentation(pad=pad, flip=flip),
    )


def crops(image: Tensor, pad: int) -> list[Tensor]:
    """Every crop of the padded image, by hand."""
    height, width = image.shape[1:]
    padded = F.pad(image, (pad, pad, pad, pad))
    return [padded[:, y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]


@given(pad=st.integers(0, 2), flip=st.booleans(), seed=st.integers(0, 2**31), is_float=st.booleans())
def test_an_augmented_image_is_a_crop_of_the_padded_one_or_its_mirror(
    pad: int, flip: bool, seed: int, is_float: bool
) -> None:
    images = random_images(4, size=4, seed=seed)
    images = images.float() / 7 if is_float else images
    batch = augment(images, Augmentation(pad=pad, flip=flip), generator=derived_generator(seed))
    assert batch.shape == images.shape
    assert batch.dtype == images.dtype
    for augmented, image in zip(batch, images, strict=True):
        allowed = crops(image, pad)
        allowed += [crop.flip(2) for crop in allowed] if flip else []
        assert any(torch.equal(augmented, crop) for crop in allowed)


def test_every_crop_and_both_mirrors_come_up() -> None:
    image = random_images(1, size=4)
    batch = augment(image.expand(2_000, -1, -1, -1), Augmentation(pad=1, flip=True), generator=derived_generator(0))
    for crop in crops(image[0], 1):
        for wanted in (crop, crop.flip(2)):
            share = (batch == wanted).flatten(1).all(dim=1).double().mean()
            assert share == pytest.approx(1 / 18, rel=0.5)


def test_whether_images_are_mirrored_does_not_change_how_they_are_cropped() -> None:
    images = random_images(50)
    plain = augment(images, Augmentation(pad=2), generator=derived_generator(3))
    mirrored = augment(images, Augmentation(pad=2, flip=True), generator=derived_generator(3))
    same = (mirrored == plain).flatten(1).all(dim=1)
    turned = (mirrored == plain.flip(3)).flatten(1).all(dim=1)
    assert bool((same | turned).all())
    assert bool(same.any()) and bool(turned.any())


@given(start=st.integers(0, 4), seed=st.integers(0, 2**31), epoch=st.integers(0, 100))
def test_a_step_is_the_same_wherever_the_epoch_was_entered(start: int, seed: int, epoch: int) -> None:
    here = split(pad=1, flip=True)
    whole = list(here.train_batches(batch_size=5, seed=seed, epoch=epoch, device=CPU))
    rest = list(here.train_batches(batch_size=5, seed=seed, epoch=epoch, device=CPU, start_step=start))
    assert len(whole) == here.num_steps(5) == 4
    assert len(rest) == 4 - start
    for one, other in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1)])
def test_another_seed_or_epoch_is_another_order_and_augmentation(seed: int, epoch: int) -> None:
    here = split(pad=1)
    first, *_ = here.train_batches(batch_size=23, seed=0, epoch=0, device=CPU)
    other, *_ = here.train_batches(batch_size=23, seed=seed, epoch=epoch, device=CPU)
    assert not torch.equal(first[2], other[2])
    assert not torch.equal(first[0][first[2].argsort()], other[0][other[2].argsort()])


def test_an_epoch_shows_each_image_at_most_once_with_its_label() -> None:
    here = split()
    seen = []
    for images, labels, indices in here.train_batches(batch_size=4, seed=0, epoch=0, device=CPU):
        assert images.shape == (4, 3, 6, 6)
        assert images.dtype == torch.float32
        assert torch.equal(labels, here.labels[indices])
        seen += indices.tolist()
    assert len(seen) == len(set(seen)) == 20  # 23 images, an incomplete batch is left out


def test_evaluation_shows_every_image_once_in_order_without_augmentation() -> None:
    here = split(pad=2, flip=True)
    batches = list(here.eval_batches(batch_size=10, device=CPU))
    assert [len(labels) for _, labels in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([labels for _, labels in batches]), here.labels)
    plain, *_ = split().eval_batches(batch_size=23, device=CPU)
    assert torch.equal(torch.cat([images for images, _ in batches]), plain[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_standardised_training_images_have_mean_zero_and_deviation_one(dtype: torch.dtype) -> None:
    images, *_ = next(split(40, dtype=dtype).train_batches(batch_size=40, seed=0, epoch=0, device=CPU))
    by_channel = images.transpose(0, 1).flatten(1)
    assert torch.allclose(by_channel.mean(dim=1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(by_channel.std(dim=1, correction=0), torch.ones(3), atol=1e-5)


def test_bytes_and_floats_have_the_same_mean_and_deviation() -> None:
    images = random_images(30)
    for one, other in zip(standardisation(images), standardisation(images.float()), strict=True):
        assert torch.allclose(one, other)


def test_a_channel_that_is_the_same_everywhere_stays_finite() -> None:
    images = torch.full((5, 1, 2, 2), 9, dtype=torch.uint8)
    mean, std = standardisation(images)
    assert (mean.item(), std.item()) == (9.0, 1.0)


def test_batches_leave_the_images_and_the_global_random_state_as_they_were() -> None:
    images = random_images(8).float()
    before, state = images.clone(), torch.get_rng_state()
    here = ArraySplit(
        ImageArrays(images=images, labels=cyclic_labels(8)),
        mean=torch.ones(3),
        std=torch.ones(3),
        augmentation=Augmentation(pad=1, flip=True),
    )
    for batch, _, _ in here.train_batches(batch_size=4, seed=0, epoch=0, device=CPU):
        batch.zero_()
    for batch, _ in here.eval_batches(batch_size=4, device=CPU):
        batch.zero_()
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2).long(), "of shape"),
        (torch.zeros(2, 3, 4, 4).double(), torch.zeros(2).long(), "float64"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3).long(), "2 images have labels of shape"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), "type torch.float32"),
        (torch.full((2, 3, 4, 4), torch.nan), torch.zeros(2).long(), "NaN"),
        (torch.full((2, 3, 4, 4), torch.inf), torch.zeros(2).long(), "infinite"),
        (torch.zeros(2, 3, 0, 4), torch.zeros(2).long(), "no pixels"),
    ],
)
def test_images_of_another_shape_type_or_with_values_that_are_not_finite_are_refused(
    images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ImageArrays(images=images, labels=labels)


def test_a_fingerprint_changes_with_any_pixel_and_any_label() -> None:
    images, labels = random_images(4), cyclic_labels(4)
    original = ImageArrays(images=images, labels=labels)
    assert original.fingerprint() == ImageArrays(images=images.clone(), labels=labels.clone()).fingerprint()
    other_pixels, other_labels = images.clone(), labels.clone()
    other_pixels[3, 2, 5, 5] ^= 1
    other_labels[0] = 2
    prints = {
        original.fingerprint(),
        ImageArrays(images=other_pixels, labels=labels).fingerprint(),
        ImageArrays(images=images, labels=other_labels).fingerprint(),
        ImageArrays(images=images.float(), labels=labels).fingerprint(),
    }
    assert len(prints) == 4
