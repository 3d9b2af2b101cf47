"""What the bar and the log lines say, and how they reckon the time that is left."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from deepreduce.observers import ObservedNetwork
from deepreduce.observers import progress as subject
from deepreduce.observers.progress import ProgressBar, ProgressLog
from deepreduce.training import Progress
from tests.helpers.observers import FAILED, NETWORK, OTHER, TEACHER, at, end, start

THIRD = ObservedNetwork(label="cull S3", folder="candidates/89ab0123", plan_id="89ab0123")


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


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "deepreduce")
    return caplog


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def left(display: ProgressLog, network: ObservedNetwork, progress: Progress, log: pytest.LogCaptureFixture) -> str:
    """Return what a line about `progress` says of the whole run."""
    display.step_ended(network, progress)
    return lines(log)[-1].rpartition("; ")[2]


def shown(file: io.StringIO) -> list[str]:
    """Return the drawings of a bar, the last one last."""
    return [text.rstrip() for text in file.getvalue().split("\r")]


@pytest.fixture
def file() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def bar(file: io.StringIO) -> Iterator[ProgressBar]:
    with closing(ProgressBar(file)) as bar:
        yield bar


# -- the time left ---------------------------------------------------------------------------------------------


def test_the_time_left_is_what_the_rest_takes_at_the_pace_so_far(clock: Time, log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=0)
    start(display, TEACHER, count=2, work=40)
    clock.now += 10
    # the first news of a short training is at the end of its first epoch: 10 of 100 units took 10 s
    assert left(display, TEACHER, at(1), log) == "run 10 %, 1 min 30 s left"
    clock.now += 30
    end(display, TEACHER)
    start(display, number=2, count=2, work=60)
    clock.now += 30
    assert left(display, NETWORK, at(2), log) == "run 70 %, 30 s left"


def test_work_that_was_done_before_says_nothing_of_the_pace(clock: Time, log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=0)
    start(display, TEACHER, work=60)
    end(display, TEACHER, was_done=True)
    start(display, number=2, work=40)
    clock.now += 10
    assert left(display, NETWORK, at(1), log) == "run 70 %, 30 s left"
    assert lines(log)[0].endswith(" (already done)")


def test_a_resumed_training_counts_only_what_this_process_did(clock: Time, log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=0)
    start(display, TEACHER, work=40, total=50)
    # two and a half of four epochs were there already: 25 units; half an epoch is 5 units in 10 s
    clock.now += 10
    assert left(display, TEACHER, at(3, resumed=2.5), log) == "run 60 %, 40 s left"
    clock.now += 20
    end(display, TEACHER)
    start(display, number=2, work=10, total=50)
    clock.now += 10
    assert left(display, NETWORK, at(2), log) == "run 90 %, 10 s left"


def test_networks_in_parallel_are_reckoned_together(clock: Time, log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=0)
    start(display, NETWORK, number=1, count=3, work=40, total=120)
    start(display, OTHER, number=2, count=3, work=40, total=120)
    clock.now += 10
    # 10 units of the first and nothing of the second took 10 s
    assert left(display, NETWORK, at(1), log) == "run 8 %, 1 min 50 s left"
    # 20 units of both
    assert left(display, OTHER, at(1), log) == "run 17 %, 50 s left"
    end(display, OTHER, FAILED)
    start(display, THIRD, number=3, count=3, work=40, total=120)
    clock.now += 15
    assert left(display, NETWORK, at(2), log) == "run 50 %, 25 s left"  # 40 + 20 units took 25 s
    assert lines(log)[-1].startswith("1/3 cull S1: ")


def test_before_any_work_no_time_is_given(clock: Time, log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=0)
    start(display, work=40, total=40)
    assert left(display, NETWORK, at(0), log) == "run 0 %"
    # it went back to the start of the epoch in which it was resumed
    assert left(display, NETWORK, at(2, resumed=2.5), log) == "run 62 %"


# -- log lines -------------------------------------------------------------------------------------------------


def test_lines_come_at_most_as_often_as_wanted(clock: Time, log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=30)
    start(display, number=3, count=9, work=40)
    for _ in range(100):
        clock.now += 1
        display.step_ended(NETWORK, at(1, 2))
    assert len(lines(log)) == 3
    assert lines(log)[0] == "3/9 cull S1: epoch 2/4, val 50.0 %, loss 1.250; run 12 %, 3 min 40 s left"
    end(display)
    assert lines(log)[-1] == "3/9 cull S1: val 75.00 %, test 50.00 %, 64 ReLUs, 2 s"
    display.close()


def test_a_network_beyond_a_count_that_was_too_low_raises_the_count(log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=0)
    start(display, number=5, count=4)
    end(display)
    assert lines(log)[-1].startswith("5/5 cull S1: ")


def test_an_accuracy_that_was_not_measured_is_left_out(log: pytest.LogCaptureFixture) -> None:
    display = ProgressLog(every=0)
    start(display)
    display.step_ended(NETWORK, at(0, 5, val_accuracy=None))
    assert lines(log)[-1].startswith("1/4 cull S1: epoch 1/4, loss 1.250; ")
    display.step_ended(NETWORK, at(4))  # at the end there is no epoch 5
    assert lines(log)[-1].startswith("1/4 cull S1: epoch 4/4, val 50.0 %, loss 1.250; ")


# -- the bar ---------------------------------------------------------------------------------------------------


def test_the_bar_tells_the_network_the_training_and_the_share_of_the_whole_run(
    clock: Time, bar: ProgressBar, file: io.StringIO
) -> None:
    assert "getting ready" in shown(file)[-1]
    start(bar, TEACHER, number=1, count=2, work=40)
    end(bar, TEACHER, was_done=True)
    start(bar, number=2, count=2, work=60)
    clock.now += 15
    bar.step_ended(NETWORK, at(3, resumed=2.0))
    assert any("0%" in text and "1/2 teacher" in text for text in shown(file))
    assert any("40%" in text and "1/2 teacher · val 75.00 % · test 50.00 %" in text for text in shown(file))
    assert "85%" in shown(file)[-1]
    assert shown(file)[-1].endswith("| 15 s left · 2/2 cull S1 · epoch 4/4 · val 50.0 % · loss 1.250")
    end(bar)
    assert "100%" in shown(file)[-1] and "0 s left · 2/2 cull S1 · val 75.00 %" in shown(file)[-1]


def test_the_bar_tells_how_many_are_trained_in_parallel(clock: Time, bar: ProgressBar, file: io.StringIO) -> None:
    for number, network in enumerate((TEACHER, NETWORK, OTHER), start=1):
        start(bar, network, number=number)
    bar.step_ended(OTHER, at(2))
    assert "3/4 cull S2 (+2 in parallel) · epoch 3/4" in shown(file)[-1]
    assert "12%" in shown(file)[-1]  # half of a quarter


def test_the_bar_never_passes_its_end_when_the_total_shrinks(
    clock: Time, bar: ProgressBar, file: io.StringIO
) -> None:
    start(bar, count=1, work=100, total=90)
    bar.step_ended(NETWORK, at(4))
    assert "100%" in shown(file)[-1]


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize(("columns", "parts"), [(30, 2), (50, 2), (60, 3), (80, 4), (90, 5), (120, 5)])
def test_a_narrow_terminal_shows_the_time_left_first_and_no_detail_in_part(
    clock: Time, columns: int, parts: int
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "w", encoding="utf-8") as file:
        bar = ProgressBar(file)
        start(bar)
        clock.now += 1000
        bar.step_ended(NETWORK, at(3))
        file.write("\rEND")
        file.flush()
        drawn = b""
        while not drawn.endswith(b"\rEND"):
            drawn += screen.read(4096)
        bar.close()
        last = drawn.decode().split("\r")[-2].rstrip()
    whole = "1 h 12 min left · 1/4 cull S1 · epoch 4/4 · val 50.0 % · loss 1.250"
    expected = " 19%|█▉        | " + " · ".join(whole.split(" · ")[:parts])
    assert last == expected[: columns - 1].rstrip()
