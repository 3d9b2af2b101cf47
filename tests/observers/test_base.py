"""Several observers as one: their order, and what becomes of one that fails."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import pytest

import deepreduce
from deepreduce.observers import Observers, RunObserver
from deepreduce.observers.base import epoch_metrics, result_metrics
from tests.helpers.observers import FAILED, NETWORK, RESULT, Recorder, at, end, epoch, finish, start

CALLS = [name for name in vars(RunObserver) if not name.startswith("_")]


def short_run(observer: RunObserver, folder: Path) -> None:
    """Make every call once."""
    observer.run_started(folder)
    start(observer)
    observer.step_ended(NETWORK, at(1))
    observer.epoch_ended(NETWORK, epoch(1))
    end(observer)
    finish(observer)
    observer.close()


def test_the_interface_is_public_and_every_method_says_what_it_is_for() -> None:
    assert deepreduce.RunObserver is RunObserver
    assert all(inspect.getdoc(getattr(RunObserver, name)) for name in CALLS)


def test_every_call_goes_to_every_observer_in_their_order(tmp_path: Path) -> None:
    heard: list[tuple[int, str]] = []

    class Numbered(Recorder):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def _hear(self, call: str, in_order: bool) -> None:
            super()._hear(call, in_order)
            heard.append((self.number, call))

    observers = [Numbered(0), Numbered(1)]
    with Observers(observers) as several:
        short_run(several, tmp_path)
    assert heard == [(number, call) for call in CALLS for number in (0, 1)]
    assert all(observer.errors == [] for observer in observers)


@pytest.mark.parametrize("call", CALLS)
def test_one_that_fails_is_named_once_closed_and_left_out_and_the_others_continue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    broken, sound = Recorder(broken=call), Recorder()
    with Observers([broken, sound]) as several:
        short_run(several, tmp_path)
        several.close()
    assert sound.calls == CALLS and sound.errors == []
    assert broken.calls == [*CALLS[: CALLS.index(call) + 1], *(["close"] if call != "close" else [])]
    (record,) = caplog.records
    assert record.message.startswith("Recorder failed and is left out from here on (OSError: no space left, in ")
    assert "observers.py:" in record.message and record.levelno == logging.WARNING


def test_one_that_fails_again_while_it_is_closed_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Hopeless(Recorder):
        def _hear(self, call: str, in_order: bool) -> None:
            raise OSError("no space left")

    with Observers([Hopeless()]) as several:
        short_run(several, tmp_path)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_passes_through_and_all_are_closed(
    tmp_path: Path, call: str, error: type[BaseException]
) -> None:
    before, after = Recorder(), Recorder()
    with pytest.raises(error), Observers([before, Recorder(broken=call, error=error()), after]) as several:
        short_run(several, tmp_path)
    assert before.calls[-1] == after.calls[-1] == "close"
    assert before.errors == []


def test_metrics_leave_out_what_was_not_measured() -> None:
    assert epoch_metrics(epoch(2)) == {"train_loss": 0.5, "learning_rate": 0.05, "val_accuracy": 0.5}
    assert "val_accuracy" not in epoch_metrics(epoch(2, val_accuracy=None))
    assert result_metrics(RESULT) == {
        "measured/relu_count": 64, "measured/macs": 128, "measured/val_accuracy": 0.75,
        "measured/test_accuracy": 0.5, "measured/churn": 0.25, "measured/train_seconds": 2.0,
    }  # fmt: skip
    assert result_metrics(FAILED).keys() == {"measured/relu_count", "measured/macs", "measured/train_seconds"}
