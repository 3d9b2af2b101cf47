"""Trainings that share a schedule see the same images, in batches that may differ in size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deepreduce.data import ImageData
from deepreduce.training import AugmentationSchedule, Stopped
from deepreduce.training.augmentation import AugmentedBatches
from tests.helpers.images import CPU, striped
from tests.helpers.training import RECIPE, StopAfter, curve, fit, same_weights, tiny


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()  # 72 training images


class AskedTeacher:
    """A teacher that notes which batches it is asked for; its logits follow from the images alone."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def logits(self, images: Tensor, *, epoch: int, step: int) -> Tensor:
        self.asked.append((epoch, step, len(images)))
        return images.mean(dim=(2, 3))


def images_shown(data: ImageData, *, epochs: float = 2, batch_size: int = 18, **options: Any) -> list[Tensor]:
    """Return the batches of images that a training shows to a network."""
    module, shown = tiny(), []
    module.register_forward_pre_hook(lambda m, inputs: shown.append(inputs[0].clone()) if m.training else None)
    fit(module, data, replace(RECIPE, epochs=epochs, batch_size=batch_size), **options)
    return shown


def test_a_training_may_take_several_batches_of_the_schedule_at_once(data: ImageData) -> None:
    schedule, teacher = AugmentationSchedule(seed=3, epochs=2, batch_size=9), AskedTeacher()
    small = images_shown(data, batch_size=9, schedule=schedule)
    large = images_shown(data, batch_size=27, schedule=schedule, teacher=teacher)
    # 72 images: eight batches of 9, of which two steps of three fill 27 and two are left over
    assert [len(batch) for batch in large] == [27] * 4 and len(small) == 16
    for step, batch in enumerate(large):
        first = 8 * (step // 2) + 3 * (step % 2)
        assert torch.equal(batch, torch.cat(small[first : first + 3]))
    assert teacher.asked == [(epoch, step, 9) for epoch in (0, 1) for step in range(6)]


@pytest.mark.parametrize("first_step", [0, 1, 3])
def test_an_epoch_from_any_step_on_has_the_batches_that_are_left(data: ImageData, first_step: int) -> None:
    batches = AugmentedBatches(data.train, AugmentationSchedule(seed=3, batch_size=6), batch_size=18, device=CPU)
    assert batches.steps_per_epoch == 4
    whole, rest = list(batches.epoch(1)), list(batches.epoch(1, first_step=first_step))
    assert len(whole) == 4 and len(rest) == 4 - first_step
    for (images, labels), (others, other_labels) in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_training_resumes_in_the_middle_of_such_batches(data: ImageData, steps: int) -> None:
    options: dict[str, Any] = {"schedule": AugmentationSchedule(seed=3, epochs=2, batch_size=6)}
    undisturbed, stopped, stopper = tiny(), tiny(), StopAfter(steps)
    expected = fit(undisturbed, data, **options)
    with pytest.raises(Stopped):
        fit(stopped, data, **stopper.options(), **options)
    again = tiny(seed=5)
    assert curve(fit(again, data, resume=stopper.snapshot, **options)) == curve(expected)
    assert same_weights(again, undisturbed)


def test_a_training_may_begin_with_another_epoch_of_the_schedule(data: ImageData) -> None:
    one, other = (
        images_shown(data, schedule=AugmentationSchedule(seed=3, epochs=2, first=first)) for first in (0, 1)
    )
    half = len(one) // 2
    assert all(torch.equal(a, b) for a, b in zip(one, other[half:] + other[:half], strict=True))


def test_a_batch_size_that_is_no_multiple_of_the_schedules_is_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match=r"batches of 18 .* can't be made of .* batches of 4; give a multiple of 4"):
        fit(tiny(), data, schedule=AugmentationSchedule(seed=3, batch_size=4))


def test_images_repeat_after_the_schedules_epochs_and_are_the_same_for_every_training(data: ImageData) -> None:
    shown = images_shown(data, epochs=3, schedule=AugmentationSchedule(seed=7, epochs=2))
    assert len(shown) == 12
    assert all(torch.equal(one, again) for one, again in zip(shown[:4], shown[8:], strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(shown[:4], shown[4:8], strict=True))
    another = images_shown(data, epochs=1, seed=99, schedule=AugmentationSchedule(seed=7, epochs=2))
    assert all(torch.equal(one, same) for one, same in zip(shown[:4], another, strict=True))


def test_a_schedule_without_end_never_repeats_and_is_that_of_the_seed_by_default(data: ImageData) -> None:
    shown = images_shown(data, epochs=3, seed=4)
    same = images_shown(data, epochs=3, schedule=AugmentationSchedule(seed=4))
    assert all(torch.equal(a, b) for a, b in zip(shown, same, strict=True))
    assert len({float(images.double().sum()) for images in shown}) == 12
