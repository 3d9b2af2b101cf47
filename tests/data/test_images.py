"""Splits and labels: what is refused, and how parts are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.data import DataFacts, ImageArrays, RawData
from deepreduce.data.images import draw_balanced, labels_from_array
from deepreduce.errors import DataError
from deepreduce.utils.seed import derived_generator
from tests.helpers.images import cyclic_labels, random_images, striped


def part(labels: list[int]) -> ImageArrays:
    return ImageArrays(images=random_images(len(labels)), labels=torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        ([], [0], 2, "no training images"),
        ([0, 1], [], 2, "no test images"),
        ([0, 1, 2], [0], 2, r"training labels run from 0 to 2; with 2 classes they must lie in 0 to 1"),
        ([0, 1, -1], [0], 2, r"training labels run from -1 to 1"),
        ([0, 1], [3], 2, r"test labels run from 3 to 3"),
        ([1, 1, 1], [1], 2, "all training images are of class 1; a classifier needs two classes"),
        ([0, 2, 0, 2], [1], 3, "class 1 is in the test images only"),
        ([0, 1_000_000], [0], 1_000_001, r"1,000,001 classes and only 2 training images; number the classes from 0"),
    ],
)
def test_labels_that_no_classifier_can_learn_are_one_clear_error(
    train: list[int], test: list[int], classes: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        RawData(name="mine", train=part(train), test=part(test), num_classes=classes)


def test_training_and_test_images_must_be_of_one_size() -> None:
    small = ImageArrays(images=random_images(3, size=4), labels=cyclic_labels(3))
    with pytest.raises(DataError, match=r"training images are \(3, 6, 6\) and test images \(3, 4, 4\)"):
        RawData(name="mine", train=part([0, 1, 2]), test=small, num_classes=3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 1)), r"of shape \(2, 1\); 2 images need 2 labels"),
        (np.zeros(3), "2 images need 2 labels"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, np.inf]), "infinite"),
        (np.array([0.0, 0.5]), "fractions"),
        (np.array([0.0, 1e30]), r"to 1e\+30; number the classes from 0"),
        (np.array([0, 2**63], dtype=np.uint64), "number the classes from 0"),
        (np.array(["cat", "dog"]), "whole numbers"),
        (np.array([True, False]), "bool"),
        (np.array([None, 1], dtype=object), "object"),
        (np.array([1j, 0]), "complex"),
    ],
)
def test_labels_that_are_no_whole_numbers_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels_from_array(labels, "mine", count=2)


@pytest.mark.parametrize("dtype", ["u1", "i2", "<i8", ">i4", "u8", "f4", "f2"])
def test_whole_numbers_of_any_type_are_labels(dtype: str) -> None:
    labels = labels_from_array(np.array([2, 0, 1], dtype=dtype), "mine", count=3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 0, 1]


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_balanced_draw_gives_every_class_its_share(labels: list[int], share: float, seed: int) -> None:
    given_labels = torch.tensor(labels)
    count = round(share * len(labels))
    drawn = draw_balanced(given_labels, count, generator=derived_generator(seed))
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == count
    for label in set(labels):
        size = labels.count(label)
        got = int((given_labels[drawn] == label).sum())
        # every class is rounded by itself, and all roundings may go the same way
        assert abs(got - size * count / len(labels)) <= 1 + len(set(labels)) / 2


def test_another_seed_draws_other_images() -> None:
    labels = cyclic_labels(90)
    one, same, other = (draw_balanced(labels, 30, generator=derived_generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_fewer_training_images_than_a_batch_are_refused_with_the_repair() -> None:
    data = striped(train=40, test=6)
    assert data.facts == DataFacts(
        num_classes=3, image_shape=(3, 8, 8), train_images=30, val_images=10, test_images=6
    )
    data.check_batch_size(30)
    with pytest.raises(DataError, match=r"30 training images, fewer than a batch of 31; lower training.batch_size"):
        data.check_batch_size(31)
