"""What TensorBoard's own reader finds in the event files, at every moment of a run."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from deepreduce.observers.tensorboard import TensorBoardLogger
from tests.helpers.curves import agree
from tests.helpers.curves import tensorboard_curve as curve
from tests.helpers.curves import tensorboard_events as events
from tests.helpers.observers import FAILED, NETWORK, RESULT, end, epoch, epochs, finish, start

pytest.importorskip("tensorboard")

# TensorBoard warns about itself
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def logger(tmp_path: Path) -> TensorBoardLogger:
    return logger_for(tmp_path)


def logger_for(folder: Path) -> TensorBoardLogger:
    logger = TensorBoardLogger()
    logger.run_started(folder)
    return logger


def test_the_events_hold_the_curves_and_what_was_measured(tmp_path: Path, logger: TensorBoardLogger) -> None:
    start(logger)
    logger.epoch_ended(NETWORK, epoch(1, val_accuracy=None))
    logger.epoch_ended(NETWORK, epoch(2))
    found = events(tmp_path / "tensorboard" / NETWORK.folder)  # at every moment, not only at the end
    assert curve(found, "train_loss") == [(1, 1.0), (2, 0.5)]
    end(logger)
    found = events(tmp_path / "tensorboard" / NETWORK.folder)
    assert curve(found, "val_accuracy") == [(2, 0.5)]
    assert agree(curve(found, "learning_rate"), [(1, 0.1), (2, 0.05)])
    assert curve(found, "measured/relu_count") == [(0, RESULT.relu_count)]
    assert curve(found, "measured/churn") == [(0, 0.25)]
    assert found.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"


def test_an_epoch_that_is_trained_again_after_a_kill_stands_once(tmp_path: Path, logger: TensorBoardLogger) -> None:
    start(logger)
    logger.epoch_ended(NETWORK, epoch(1))
    logger.epoch_ended(NETWORK, epoch(2))  # trained, and lost with the process: the last snapshot is older
    resumed = logger_for(tmp_path)
    start(resumed, epochs=epochs(1))
    resumed.epoch_ended(NETWORK, epoch(2))
    resumed.epoch_ended(NETWORK, epoch(3))
    end(resumed)
    logger.close()
    found = events(tmp_path / "tensorboard" / NETWORK.folder)
    assert [step for step, _ in curve(found, "train_loss")] == [1, 2, 3]
    times = [event.wall_time for event in found.Scalars("train_loss")]
    assert [late - times[0] for late in times] == pytest.approx([0, 1, 2])


def test_a_network_that_failed_says_why(tmp_path: Path, logger: TensorBoardLogger) -> None:
    start(logger)
    end(logger, result=FAILED)
    found = events(tmp_path / "tensorboard" / NETWORK.folder)
    assert b"not finite" in found.Tensors("failure/text_summary")[0].tensor_proto.string_val[0]


def test_the_frontier_is_drawn_against_its_relus(tmp_path: Path, logger: TensorBoardLogger) -> None:
    finish(logger)
    logger.close()
    found = events(tmp_path / "tensorboard" / "frontier")
    # the teacher is as accurate, at twice the ReLUs
    assert curve(found, "frontier/test_accuracy") == [(64, 0.5)]
    shown = found.Tensors("frontier/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"{NETWORK.plan_id}" in shown


@pytest.mark.parametrize("number", range(1, 6))
def test_a_disk_that_fills_up_fails_the_call_at_once(
    tmp_path: Path, logger: TensorBoardLogger, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """So that the run leaves it out with a line in its log, and no thread raises for itself."""
    left, threads = [number], threading.active_count()

    class Full:
        def __init__(self, file: object) -> None:
            left[0] -= 1
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")

        def write(self, content: bytes) -> None:
            pass

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter", Full)
    with pytest.raises(OSError, match="No space left"):
        start(logger)
        logger.epoch_ended(NETWORK, epoch(1))
        end(logger)
    assert threading.active_count() == threads
