"""Tensors, arrays and torch data sets handed over from Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from deepreduce.data import ImageArrays, ImageItems, Preparation, prepare, raw_from_python
from deepreduce.errors import DataError
from tests.helpers.images import CPU, cyclic_labels, random_images

X, Y = random_images(12), cyclic_labels(12)


def images_of(given: Any) -> torch.Tensor:
    data = raw_from_python(given)
    assert isinstance(data.train, ImageArrays)
    return data.train.images


def test_tensors_arrays_lists_and_mappings_mean_the_same() -> None:
    as_arrays = (X.numpy(), Y.numpy())
    for given in (
        (X, Y, X, Y),
        [X, Y, X, Y],
        as_arrays * 2,
        (X, Y.tolist(), X, Y.float()),
        (X, Y.to(torch.bfloat16), X, Y.to(torch.uint8)),
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "more": None},
    ):
        data = raw_from_python(given)
        assert torch.equal(images_of(given), X)
        assert torch.equal(data.train.labels, Y)
        assert data.num_classes == 3
        assert not data.augmentation.pad and not data.augmentation.flip


def test_arrays_that_are_read_only_or_strided_are_taken() -> None:
    array = X.numpy().copy()
    array.setflags(write=False)
    assert torch.equal(images_of((array, Y, array, Y)), X)
    assert torch.equal(images_of((X.numpy()[::-1], Y, X, Y)), X.flip(0))
    assert torch.equal(images_of((X.numpy().transpose(0, 1, 3, 2), Y, X, Y)), X.transpose(2, 3))


def test_floats_of_any_width_become_float32_and_grey_images_get_a_channel() -> None:
    for dtype in (torch.float16, torch.float64, torch.bfloat16):
        assert images_of((X.to(dtype), Y, X, Y)).dtype == torch.float32
    assert images_of((X[:, 0], Y, X[:, 0], Y)).shape == (12, 1, 6, 6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((X, Y), "the training data set is a Tensor"),
        ((X, Y, X), "the data are tuple"),
        (X, "the data are Tensor"),
        (7, "the data are int"),
        ({"x_train": X, "y_train": Y}, "the data lack x_test, y_test"),
        ((X, Y, X, None), "y_test is a NoneType"),
        ((X.int(), Y, X, Y), "x_train is torch.int32; images must be uint8 or floating point"),
        ((X.numpy().astype(complex), Y, X, Y), "x_train is torch.complex128"),
        ((X[:0], Y[:0], X, Y), "x_train holds no images"),
        ((X.flatten(1), Y, X, Y), r"of shape \(12, 108\)"),
        ((X, Y[:5], X, Y), "12 images need 12 labels"),
        ((X, Y + 0.5, X, Y), "fractions"),
        ((X, ["cat"] * 12, X, Y), "y_train can't be read as numbers"),
        ((X, [[0], [1, 2]], X, Y), "y_train can't be read as numbers"),
        ((X, Y - 1, X, Y), "run from -1"),
        ((X, Y, X, Y + 1), "test labels run from 1 to 3"),
        ((X, Y * 0, X, Y * 0), "two classes"),
        ((X * torch.nan, Y, X, Y), "NaN"),
        ((X.double() * 1e300, Y, X, Y), "infinite"),
        ((X, Y, X[:, :, :4], Y), "one size"),
        ((X.float().to_sparse(), Y, X, Y), "x_train is a tensor without values or not dense"),
        ((X.to("meta"), Y, X, Y), "x_train is a tensor without values or not dense"),
        ((X, Y.to_sparse(), X, Y), "y_train is a tensor without values or not dense"),
        ((X.bool(), Y, X, Y), "x_train is torch.bool"),
        ((X, Y.bool(), X, Y), "labels are bool"),
        ((X, Y.double() * -1e300, X, Y), "run from .*number the classes from 0"),
        ((X, [10**400] * 12, X, Y), "y_train can't be read as numbers"),
        ((X, np.array([None] * 12), X, Y), "y_train can't be read as numbers"),
        ((np.ma.masked_array(X.numpy(), mask=True), Y, X, Y), "x_train is a masked array"),
        ((X.permute(0, 2, 3, 1), Y, X.permute(0, 2, 3, 1), Y), r"looks like .*channels.*permute\(0, 3, 1, 2\)"),
    ],
)
def test_what_is_no_data_set_is_one_clear_line(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        raw_from_python(given)
    assert "\n" not in str(caught.value)


class Items(Dataset[Any]):
    """Items from a list; a function may change them on the way out."""

    def __init__(self, items: list[Any], change: Any = lambda item: item) -> None:
        self.items, self.change = items, change

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.change(self.items[index])


def pairs() -> list[Any]:
    return list(zip(X.float() / 255, Y.tolist(), strict=True))


@pytest.mark.parametrize(
    "targets", [None, 5, {}, {0: 1}, "text", [None] * 12, [[1]] * 12, object(), iter([1]), [1e400] * 12]
)
def test_a_list_of_classes_that_is_none_is_not_used(targets: Any) -> None:
    items = Items(pairs())
    items.targets = targets  # type: ignore[attr-defined]
    assert raw_from_python((items, Items(pairs()))).train.labels.tolist() == Y.tolist()


@pytest.mark.parametrize("label", [10**400, float("nan"), "cat", None, 0.5, 1j, torch.ones(2)])
def test_a_class_that_is_no_whole_number_is_one_line(label: Any) -> None:
    given = [(image, label) for image, _ in pairs()]
    with pytest.raises(DataError, match=r"class is .*; it must be a whole number") as caught:
        raw_from_python((Items(given), Items(pairs())))
    assert "\n" not in str(caught.value)


def test_torch_data_sets_keep_their_own_values() -> None:
    data = raw_from_python((Items(pairs()), Items(pairs())))
    assert isinstance(data.train, ImageItems)
    assert data.train.labels.tolist() == Y.tolist()
    (images, labels), *_ = prepare(data, seed=0).test.eval_batches(batch_size=12, device=CPU)
    assert torch.equal(images, X.float() / 255)
    assert torch.equal(labels, Y)


def test_bytes_of_a_torch_data_set_become_fractions_and_labels_may_be_tensors() -> None:
    data = raw_from_python((TensorDataset(X, Y), Subset(TensorDataset(X, Y), range(6))))
    (images, labels), *_ = prepare(data, seed=0).test.eval_batches(batch_size=6, device=CPU)
    assert torch.equal(images, X[:6].float() / 255)
    assert torch.equal(labels, Y[:6])


def test_targets_save_reading_every_item_unless_they_say_something_else() -> None:
    read: list[int] = []

    def counted(item: Any) -> Any:
        read.append(item[1])
        return item

    with_targets = Items(pairs(), counted)
    with_targets.targets = Y  # type: ignore[attr-defined]
    raw_from_python((with_targets, Items(pairs())))
    assert len(read) == 1
    # what the data set gives counts, not what it says it will give
    for changed in (
        Items(pairs(), lambda item: (item[0], 2 - item[1])),
        Items(pairs(), lambda item: (item[0], item[1])),
    ):
        changed.targets = Y if changed[0][1] else [0] * 5  # type: ignore[attr-defined]
        data = raw_from_python((changed, Items(pairs())))
        assert data.train.labels.tolist() == [changed[i][1] for i in range(12)]
    transformed = Items(pairs(), lambda item: (item[0], min(item[1], 1)))
    transformed.targets, transformed.target_transform = Y, lambda label: min(label, 1)  # type: ignore[attr-defined]
    data = raw_from_python((transformed, transformed))
    assert data.num_classes == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda item: item[0],
            r"the training data set\[0\] is a Tensor; a data set must give \(image, class\) pairs",
        ),
        (lambda item: (*item, 1), "pairs"),
        (lambda item: (item[0].numpy(), item[1]), "it must be a tensor"),
        (lambda item: (item[0][0], item[1]), "it must be a tensor"),
        (lambda item: (item[0] * torch.nan, item[1]), "NaN"),
        (lambda item: (item[0][:, :0], item[1]), "no pixels"),
        (lambda item: (item[0], item[1] + 0.5), "class is 0.5; it must be a whole number"),
        (lambda item: (item[0], "cat"), "class is 'cat'"),
        (lambda item: (item[0], None), "class is None"),
        (lambda item: (item[0], torch.tensor([0, 1])), "class is tensor"),
        (lambda item: (item[0], float("inf")), "class is inf"),
        (lambda item: (item[0][:, : 6 - item[1]], item[1]), r"of shape \(3, 5, 6\), the first of \(3, 6, 6\)"),
        (lambda item: (item[0], item[1] - 1), "run from -1"),
    ],
)
def test_items_that_are_no_image_and_class_are_one_clear_line(change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        raw_from_python((Items(pairs(), change), Items(pairs())))
    assert "\n" not in str(caught.value)


def test_data_sets_without_items_or_without_length_are_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(pairs())

    with pytest.raises(DataError, match="the test data set is empty"):
        raw_from_python((Items(pairs()), Items([])))
    with pytest.raises(DataError, match="has no length; give a map-style torch data set"):
        raw_from_python((Stream(), Items(pairs())))


def test_a_random_transform_makes_no_other_data_set_and_draws_nothing_from_the_global_state() -> None:
    def noisy(item: Any) -> Any:
        return item[0] + torch.rand(()) + float(np.random.rand()), item[1]

    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first, second = (prepare(raw_from_python((Items(pairs(), noisy),) * 2), seed=0) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    for _ in range(2):
        one, other = (list(data.val.eval_batches(batch_size=4, device=CPU)) for data in (first, second))
        assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Preparation(image_size=4), "resize in its own transform"),
        (Preparation(flip=True), "flip in its own transform"),
        (Preparation(pad=1), "is for images in memory"),
        (Preparation(channels=1), "repeats grey images"),
    ],
)
def test_the_images_of_torch_data_sets_are_not_changed(wanted: Preparation, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(raw_from_python((Items(pairs()), Items(pairs()))), wanted, seed=0)
