"""The validation part, limits, sizes and channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.data import ArraySplit, ImageArrays, ImageData, Preparation, RawData, Split, prepare, raw_from_python
from deepreduce.errors import DataError
from tests.helpers.images import CPU, cyclic_labels, random_images, raw


def numbered(count: int) -> RawData:
    """Images that can be told apart after standardisation: image i has the pixel value i."""
    images = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1)
    part = ImageArrays(images=images, labels=cyclic_labels(count))
    return RawData(name="numbered", train=part, test=part, num_classes=3)


def values(split: Split) -> list[float]:
    (images, _), *_ = split.eval_batches(batch_size=len(split), device=CPU)
    return images.flatten().tolist()


@given(seed=st.integers(0, 2**31), fraction=st.floats(0.05, 0.95))
def test_training_and_validation_part_are_disjoint_and_account_for_all_images(seed: int, fraction: float) -> None:
    whole = numbered(60)
    data = prepare(whole, Preparation(val_fraction=fraction), seed=seed)
    # standardising keeps the order of values, so as many different ones are as many different images
    train, val = values(data.train), values(data.val)
    assert len(train) + len(val) == 60
    assert len(set(train) | set(val)) == 60
    sizes = torch.bincount(data.val.labels, minlength=3)
    assert int(sizes.max() - sizes.min()) <= 1
    assert len(val) == data.facts.val_images == round(fraction * 60)


def test_the_seed_draws_the_validation_part_and_changes_nothing_else() -> None:
    def of(seed: int) -> ImageData:
        return prepare(numbered(60), Preparation(val_fraction=0.5, test_limit=12), seed=seed)

    assert of(0).fingerprint == of(0).fingerprint != of(1).fingerprint
    assert torch.equal(of(0).test.labels, of(1).test.labels)
    ranks = [sorted(range(30), key=values(of(seed).val).__getitem__) for seed in (0, 0, 1)]
    assert ranks[0] == ranks[1]
    assert len(set(values(of(0).test))) == len(set(values(of(1).test))) == 12


def test_limits_keep_the_classes_balanced() -> None:
    data = prepare(raw(60, 30), Preparation(train_limit=30, test_limit=9), seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 9)
    assert torch.bincount(torch.cat([data.train.labels, data.val.labels])).tolist() == [10, 10, 10]
    assert torch.bincount(data.test.labels).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Preparation(train_limit=61), r"data.train_limit is 61; tensors has 60 such images"),
        (Preparation(test_limit=13), r"data.test_limit is 13; tensors has 12 such images"),
        (Preparation(val_fraction=0.001), "part empty; change data.val_fraction"),
        (Preparation(val_fraction=0.999), "part empty; change data.val_fraction"),
    ],
)
def test_what_leaves_a_part_empty_or_is_not_there_is_refused(wanted: Preparation, message: str) -> None:
    whole = raw(60, 12)
    with pytest.raises(DataError, match=message):
        prepare(whole, wanted, seed=0)
    sizes = prepare(whole, Preparation(val_fraction=0.5), seed=0).facts
    before = type(sizes)(num_classes=3, image_shape=sizes.image_shape, train_images=60, val_images=0, test_images=12)
    with pytest.raises(DataError, match=message):
        wanted.facts(before, "tensors")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_are_resized_and_grey_ones_made_rgb(dtype: torch.dtype) -> None:
    images = random_images(30, channels=1, size=8).to(dtype)
    whole = raw_from_python((images, cyclic_labels(30), images, cyclic_labels(30)))
    data = prepare(whole, Preparation(image_size=4, channels=3), seed=0)
    assert data.image_shape == (3, 4, 4)
    (batch, _), *_ = data.test.eval_batches(batch_size=30, device=CPU)
    assert batch.shape == (30, 3, 4, 4)
    assert torch.equal(batch[:, 0], batch[:, 2])


def test_what_is_constant_stays_so_when_it_is_resized() -> None:
    images = torch.full((30, 1, 8, 8), 77, dtype=torch.uint8)
    data = prepare(raw_from_python((images, cyclic_labels(30)) * 2), Preparation(image_size=5), seed=0)
    (batch, _), *_ = data.test.eval_batches(batch_size=30, device=CPU)
    assert not batch.any()


def test_colours_are_not_made_grey() -> None:
    with pytest.raises(DataError, match=r"data.channels repeats grey images to 1 channels; these have 3"):
        prepare(raw(), Preparation(channels=1), seed=0)


def test_the_mean_is_that_of_the_training_part_alone() -> None:
    whole = numbered(60)
    data = prepare(whole, Preparation(val_fraction=0.5), seed=0)
    assert sum(values(data.train)) == pytest.approx(0, abs=1e-3)
    assert sum(values(data.val)) != pytest.approx(0, abs=1e-3)


def test_augmentation_is_the_data_sets_own_unless_told_otherwise() -> None:
    def of(**wanted: object) -> str:
        return prepare(raw(), Preparation(**wanted), seed=0).fingerprint  # type: ignore[arg-type]

    assert of() == of(pad=0, flip=False)
    assert len({of(), of(pad=1), of(flip=True), of(pad=1, flip=True)}) == 4


def test_images_in_memory_need_no_workers() -> None:
    assert isinstance(prepare(raw(), Preparation(workers=2), seed=0).train, ArraySplit)
