"""A teacher computes the logits of a batch once, whoever asks, and the cache changes no number."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.training import AugmentationSchedule, LogitsCache, Precision, Recipe, Teacher
from deepreduce.training.logits_cache import open_logits_cache
from tests.helpers.images import striped
from tests.helpers.training import FP32, RECIPE, curve, fit, same_weights, tiny

STEPS, BATCH, CLASSES = 4, 18, 3
"""Of `striped` data with RECIPE."""
SIZES = {"steps": STEPS, "batch_size": BATCH, "num_classes": CLASSES}


class Counted(nn.Module):
    """A teacher that counts the batches it is asked for."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.asked = module.eval().requires_grad_(False), 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return self.module(x)


@pytest.fixture(scope="module")
def data() -> ImageData:
    images = striped()
    assert (images.train.num_steps(RECIPE.batch_size), RECIPE.batch_size, images.num_classes) == (
        STEPS,
        BATCH,
        CLASSES,
    )
    return images


@pytest.fixture
def teacher() -> Counted:
    return Counted(tiny(seed=9))


def opened(folder: Path, *, epochs: int = 2, **sizes: int) -> LogitsCache:
    known = {"steps": STEPS, "batch_size": BATCH, "num_classes": CLASSES} | sizes
    return LogitsCache(folder / "answers.bin", epochs=epochs, **known)


def batch(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def some_logits(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(seed)).half()


SCHEDULE = AugmentationSchedule(seed=5, epochs=2)


# -- the teacher ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [FP32, Precision(bf16=True, channels_last=True)], ids=["fp32", "bf16"])
def test_logits_are_the_same_with_and_without_a_cache_at_first_and_again(
    tmp_path: Path, teacher: Counted, precision: Precision
) -> None:
    plain = Teacher(teacher, precision=precision)
    kept = Teacher(teacher, precision=precision, cache=opened(tmp_path))
    expected = plain.logits(batch(), epoch=0, step=1)
    assert expected.dtype == torch.float32 and expected.shape == (BATCH, CLASSES)
    assert torch.equal(expected, expected.half().float())  # rounded either way
    for _ in range(2):
        assert torch.equal(kept.logits(batch(), epoch=0, step=1), expected)
    assert teacher.asked == 2


def test_a_batch_is_known_by_its_epoch_and_step_alone(tmp_path: Path, teacher: Counted) -> None:
    taught = Teacher(teacher, precision=FP32, cache=opened(tmp_path))
    places = [(epoch, step) for epoch in range(2) for step in range(STEPS)]
    answers = [taught.logits(batch(number), epoch=e, step=s) for number, (e, s) in enumerate(places)]
    assert teacher.asked == len(places)
    for answer, (epoch, step) in zip(answers, places, strict=True):
        assert torch.equal(taught.logits(batch(99), epoch=epoch, step=step), answer)
    assert teacher.asked == len(places)


def test_two_students_ask_the_teacher_once_for_each_batch(tmp_path: Path, data: ImageData, teacher: Counted) -> None:
    taught = Teacher(teacher, precision=FP32, cache=opened(tmp_path))
    fit(tiny(seed=1), data, teacher=taught, schedule=SCHEDULE)
    assert teacher.asked == 2 * STEPS
    fit(tiny(seed=2), data, Recipe(epochs=5, batch_size=BATCH, learning_rate=0.1), teacher=taught, schedule=SCHEDULE)
    assert teacher.asked == 2 * STEPS


def test_epochs_that_the_cache_has_no_room_for_are_computed_again(
    tmp_path: Path, data: ImageData, teacher: Counted
) -> None:
    taught = Teacher(teacher, precision=FP32, cache=opened(tmp_path, epochs=1))
    for asked in (2 * STEPS, 3 * STEPS):  # the first epoch is known to the second student
        fit(tiny(), data, teacher=taught, schedule=SCHEDULE)
        assert teacher.asked == asked


def test_a_student_is_the_same_with_and_without_a_cache(tmp_path: Path, data: ImageData, teacher: Counted) -> None:
    teachers = [Teacher(teacher, precision=FP32)]
    teachers += [Teacher(teacher, precision=FP32, cache=opened(tmp_path, epochs=n)) for n in (1, 2, 2)]
    students = [tiny(seed=1) for _ in teachers]
    histories = [
        curve(fit(student, data, teacher=taught, schedule=SCHEDULE))
        for student, taught in zip(students, teachers, strict=True)
    ]
    assert all(history == histories[0] for history in histories)
    assert all(same_weights(student, students[0]) for student in students)


def test_logits_beyond_float16_are_bounded_not_infinite(tmp_path: Path) -> None:
    class Loud(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1e30, -1e30, 1.0]]).expand(len(x), 3)

    for kept in (None, opened(tmp_path)):
        taught = Teacher(Loud(), precision=FP32, cache=kept)
        for _ in range(2):
            logits = taught.logits(batch(), epoch=0, step=0)
            assert bool(torch.isfinite(logits).all())
            assert logits[0, 0] == -logits[0, 1] > 5e4


# -- the file -----------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_by_another_that_opens_the_file(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    assert kept.read(epoch=1, step=2) is None
    kept.write(some_logits(), epoch=1, step=2)
    for reader in (kept, opened(tmp_path)):
        found = reader.read(epoch=1, step=2)
        assert found is not None and found.dtype == torch.float16 and torch.equal(found, some_logits())
        assert reader.read(epoch=1, step=1) is None and reader.read(epoch=0, step=2) is None


def test_what_is_read_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    kept.write(some_logits(), epoch=0, step=0)
    found = kept.read(epoch=0, step=0)
    assert found is not None
    found.zero_()
    again = kept.read(epoch=0, step=0)
    assert again is not None and torch.equal(again, some_logits())


def test_the_file_has_its_whole_size_on_the_disk_from_the_start(tmp_path: Path) -> None:
    opened(tmp_path)
    status = (tmp_path / "answers.bin").stat()
    expected = 2 * STEPS * (4 + BATCH * CLASSES * 2)
    assert status.st_size == expected
    assert status.st_size == LogitsCache.size(epochs=2, steps=STEPS, batch_size=BATCH, num_classes=CLASSES)
    assert 512 * status.st_blocks >= expected  # no holes, which a full disk could not fill


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_damaged_byte_never_gives_wrong_logits(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    """Wherever it lies, one batch at most is lost, and none is wrong."""
    folder = tmp_path_factory.mktemp("answers")
    kept = opened(folder, epochs=1)
    for step in range(STEPS):
        kept.write(some_logits(step), epoch=0, step=step)
    file = folder / "answers.bin"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    again = opened(folder, epochs=1)
    found = [again.read(epoch=0, step=step) for step in range(STEPS)]
    assert sum(answer is None for answer in found) == 1
    assert all(answer is None or torch.equal(answer, some_logits(step)) for step, answer in enumerate(found))


def test_a_damaged_batch_is_computed_again_and_then_cached(tmp_path: Path, teacher: Counted) -> None:
    taught = Teacher(teacher, precision=FP32, cache=opened(tmp_path))
    expected = taught.logits(batch(), epoch=0, step=0)
    content = bytearray((tmp_path / "answers.bin").read_bytes())
    content[-1 - (2 * STEPS - 1) * BATCH * CLASSES * 2] ^= 0xFF  # the last byte of the first answer
    (tmp_path / "answers.bin").write_bytes(content)
    again = Teacher(teacher, precision=FP32, cache=opened(tmp_path))
    for asked in (2, 2):
        assert torch.equal(again.logits(batch(), epoch=0, step=0), expected)
        assert teacher.asked == asked


def test_a_file_of_another_size_is_overwritten(tmp_path: Path) -> None:
    for content in (b"", b"short", bytes(10**6)):
        (tmp_path / "answers.bin").write_bytes(content)
        kept = opened(tmp_path)
        assert all(kept.read(epoch=0, step=step) is None for step in range(STEPS))
        kept.write(some_logits(), epoch=0, step=0)
        assert opened(tmp_path).read(epoch=0, step=0) is not None


def test_a_batch_outside_the_cache_is_not_written(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    before = (tmp_path / "answers.bin").read_bytes()
    for epoch, step in ((2, 0), (0, STEPS)):
        kept.write(some_logits(), epoch=epoch, step=step)
        assert kept.read(epoch=epoch, step=step) is None
    kept.write(some_logits()[:-1], epoch=0, step=0)
    assert (tmp_path / "answers.bin").read_bytes() == before


def test_logits_that_are_all_zero_are_cached_too(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    kept.write(torch.zeros(BATCH, CLASSES).half(), epoch=0, step=0)
    found = kept.read(epoch=0, step=0)
    assert found is not None and not found.any()


def test_a_teacher_that_is_handed_to_another_process_maps_the_same_file(tmp_path: Path, teacher: Counted) -> None:
    taught = Teacher(teacher, precision=FP32, cache=opened(tmp_path))
    other = pickle.loads(pickle.dumps(taught))
    assert len(pickle.dumps(taught._cache)) < 1000  # where the file is, not what it holds
    expected = taught.logits(batch(), epoch=0, step=0)
    copied: Any = other._module
    assert torch.equal(other.logits(batch(), epoch=0, step=0), expected) and copied.asked == 0
    written = other.logits(batch(1), epoch=0, step=1)
    assert copied.asked == 1
    assert torch.equal(taught.logits(batch(1), epoch=0, step=1), written) and teacher.asked == 1


# -- no room ------------------------------------------------------------------------------------------------


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_without_room_on_the_disk_nothing_is_cached_and_nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        assert open_logits_cache(tmp_path / "answers.bin", epochs=2, max_bytes=1e9, **SIZES) is None
    assert [r.message for r in caplog.records] == ["the teacher's logits are not cached: No space left on device"]
    assert not any(tmp_path.iterdir())


def test_a_file_that_can_not_be_written_is_named_and_nothing_cached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert open_logits_cache(tmp_path / "nowhere" / "answers.bin", epochs=2, max_bytes=1e9, **SIZES) is None
    assert "not cached: No such file or directory" in caplog.text


def test_where_posix_fallocate_is_missing_the_file_is_filled_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    kept = opened(tmp_path)
    kept.write(some_logits(), epoch=1, step=3)
    assert kept.read(epoch=1, step=3) is not None
    assert (tmp_path / "answers.bin").stat().st_size == 2 * STEPS * (4 + BATCH * CLASSES * 2)


@pytest.mark.parametrize(("share", "epochs"), [(0.0, None), (0.99, None), (1.0, 1), (1.99, 1), (2.0, 2), (50.0, 3)])
def test_as_many_epochs_are_cached_as_the_limit_holds(tmp_path: Path, share: float, epochs: int | None) -> None:
    one = LogitsCache.size(epochs=1, steps=STEPS, batch_size=BATCH, num_classes=CLASSES)
    found = open_logits_cache(tmp_path / "answers.bin", epochs=3, max_bytes=share * one + 0.5, **SIZES)
    if epochs is None:
        assert found is None and not any(tmp_path.iterdir())
    else:
        assert (tmp_path / "answers.bin").stat().st_size == epochs * one
