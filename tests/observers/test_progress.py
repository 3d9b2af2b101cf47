"""What a watcher says, and how it reckons the time that is left."""

from __future__ import annotations

import io
import logging

import pytest

from deepreduce.observers import progress as subject
from deepreduce.observers.progress import BarWatcher, LogWatcher, NoWatcher, duration, told
from deepreduce.training import Progress


class Time:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(subject, "time", clock)
    return clock


def at(epoch: int, step: int = 0, *, resumed: float = 0.0, val_accuracy: float | None = 0.5) -> Progress:
    """Of four epochs of ten steps; `resumed` of the four epochs were there when the process began."""
    return Progress(
        epoch=epoch, epochs=4, step=step, steps=10, done=(10 * epoch + step) / 40, train_loss=1.25,
        val_accuracy=val_accuracy, resumed=resumed / 4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (2 * 3600 + 5 * 60, "2 h 05 min"),
        (48 * 3600 - 1, "47 h 59 min"),
        (48 * 3600, "2 d 0 h"),
    ],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_accuracy_that_was_not_measured_is_not_told() -> None:
    assert told(at(0, 5)) == "epoch 1/4 · loss 1.250 · val 50.0 %"
    assert told(at(0, 5, val_accuracy=None), ", ") == "epoch 1/4, loss 1.250"
    assert told(at(4)) == "epoch 4/4 · loss 1.250 · val 50.0 %"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def left(watcher: LogWatcher, name: str, progress: Progress, caplog: pytest.LogCaptureFixture) -> str:
    """The time left that a line about `progress` tells."""
    watcher.step(name, progress)
    return lines(caplog)[-1].rpartition(", ")[2]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "deepreduce")
    return caplog


def test_the_time_left_is_what_the_rest_takes_at_the_pace_so_far(clock: Time, log: pytest.LogCaptureFixture) -> None:
    watcher = LogWatcher(every=0)
    watcher.begin("teacher", number=1, count=2, work=40, total=100)
    clock.now += 10
    # the first news of a short training is at the end of its first epoch: 10 of 100 units took 10 s
    assert left(watcher, "teacher", at(1), log) == "1 min 30 s left"
    clock.now += 30
    watcher.end("teacher", result="val 60.00 %", was_done=False)
    watcher.begin("cull S1", number=2, count=2, work=60, total=100)
    clock.now += 30
    assert left(watcher, "cull S1", at(2), log) == "30 s left"


def test_work_that_was_done_before_says_nothing_of_the_pace(clock: Time, log: pytest.LogCaptureFixture) -> None:
    watcher = LogWatcher(every=0)
    watcher.begin("teacher", number=1, count=2, work=60, total=100)
    watcher.end("teacher", result="val 60.00 %", was_done=True)
    watcher.begin("cull S1", number=2, count=2, work=40, total=100)
    clock.now += 10
    assert left(watcher, "cull S1", at(1), log) == "30 s left"
    assert "(done before)" in lines(log)[0]


def test_a_resumed_training_counts_only_what_this_process_did(clock: Time, log: pytest.LogCaptureFixture) -> None:
    watcher = LogWatcher(every=0)
    watcher.begin("teacher", number=1, count=2, work=40, total=50)
    # two and a half of four epochs were there already: 25 units; half an epoch is 5 units in 10 s
    clock.now += 10
    assert left(watcher, "teacher", at(3, resumed=2.5), log) == "40 s left"
    clock.now += 20
    watcher.end("teacher", result="val 60.00 %", was_done=False)
    watcher.begin("cull S1", number=2, count=2, work=10, total=50)
    clock.now += 10
    assert left(watcher, "cull S1", at(2), log) == "10 s left"


def test_networks_side_by_side_are_reckoned_together(clock: Time, log: pytest.LogCaptureFixture) -> None:
    watcher = LogWatcher(every=0)
    watcher.begin("cull S1", number=1, count=3, work=40, total=120)
    watcher.begin("cull S2", number=2, count=3, work=40, total=120)
    clock.now += 10
    # 10 units of the first and nothing of the second took 10 s
    assert left(watcher, "cull S1", at(1), log) == "1 min 50 s left"
    # 20 units of the first ones that are at it
    assert left(watcher, "cull S2", at(1), log) == "50 s left"
    watcher.end("cull S2", result="failed", was_done=False)
    watcher.begin("cull S3", number=3, count=3, work=40, total=120)
    clock.now += 15
    assert left(watcher, "cull S1", at(2), log) == "25 s left"  # 40 + 20 units took 25 s
    assert lines(log)[-1].startswith("1/3 cull S1: ")


def test_the_bar_tells_how_many_are_trained_beside(clock: Time) -> None:
    file = io.StringIO()
    watcher = BarWatcher(file)
    for number, name in enumerate(("cull S1", "cull S2", "cull S3"), start=1):
        watcher.begin(name, number=number, count=4, work=25, total=100)
    watcher.step("cull S2", at(2))
    assert "2/4 cull S2 (+2 beside) · epoch 3/4" in file.getvalue().split("\r")[-1]
    assert "12%" in file.getvalue().split("\r")[-1]  # half of a quarter
    watcher.close()


def test_the_bar_numbers_a_network_beyond_a_count_that_was_too_low(
    clock: Time, log: pytest.LogCaptureFixture
) -> None:
    watcher = LogWatcher(every=0)
    watcher.begin("cull S1", number=5, count=4, work=25, total=100)
    watcher.end("cull S1", result="val 60.00 %", was_done=False)
    assert lines(log)[-1].startswith("5/5 cull S1: ")


def test_before_any_work_the_time_left_is_not_known(clock: Time, log: pytest.LogCaptureFixture) -> None:
    watcher = LogWatcher(every=0)
    watcher.begin("teacher", number=1, count=1, work=40, total=40)
    assert left(watcher, "teacher", at(0), log) == "? left"
    # it went back to the start of the epoch in which it was resumed
    assert left(watcher, "teacher", at(2, resumed=2.5), log) == "? left"


def test_lines_are_told_at_most_as_often_as_wanted(clock: Time, log: pytest.LogCaptureFixture) -> None:
    watcher = LogWatcher(every=30)
    watcher.begin("cull S1", number=3, count=9, work=40, total=100)
    for _ in range(100):
        clock.now += 1
        watcher.step("cull S1", at(1, 2))
    assert len(lines(log)) == 3
    assert lines(log)[0] == "3/9 cull S1: epoch 2/4, loss 1.250, val 50.0 %, 3 min 40 s left"
    watcher.end("cull S1", result="val 60.00 %, 9 s", was_done=False)
    assert lines(log)[-1] == "3/9 cull S1: val 60.00 %, 9 s"
    watcher.close()


def test_the_bar_tells_the_network_the_training_and_the_share_of_the_whole_run(clock: Time) -> None:
    file = io.StringIO()
    watcher = BarWatcher(file)
    watcher.begin("teacher", number=1, count=2, work=40, total=100)
    watcher.end("teacher", result="val 60.00 %", was_done=True)
    watcher.begin("cull S1", number=2, count=2, work=60, total=100)
    clock.now += 15
    watcher.step("cull S1", at(3, resumed=2.0))
    shown = file.getvalue().split("\r")
    assert any("0%" in text and "1/2 teacher" in text for text in shown)
    assert any("40%" in text and "1/2 teacher · val 60.00 %" in text for text in shown)
    assert "85%" in shown[-1]
    assert "2/2 cull S1 · epoch 4/4 · loss 1.250 · val 50.0 % · 15 s left" in shown[-1]
    watcher.end("cull S1", result="val 55.00 %", was_done=False)
    assert "100%" in file.getvalue().split("\r")[-1]
    watcher.close()


def test_the_bar_never_passes_its_end_when_the_total_shrinks(clock: Time) -> None:
    file = io.StringIO()
    watcher = BarWatcher(file)
    watcher.begin("teacher", number=1, count=1, work=100, total=90)
    watcher.step("teacher", at(4))
    assert "100%" in file.getvalue().split("\r")[-1]
    watcher.close()


def test_nobody_is_told_nothing(capsys: pytest.CaptureFixture[str], log: pytest.LogCaptureFixture) -> None:
    watcher = NoWatcher()
    watcher.begin("teacher", number=1, count=1, work=1, total=1)
    watcher.step("teacher", at(1))
    watcher.end("teacher", result="", was_done=False)
    watcher.close()
    assert capsys.readouterr() == ("", "")
    assert not lines(log)
