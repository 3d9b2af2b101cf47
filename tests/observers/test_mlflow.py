"""What an MLflow client finds in the store, which is opened, moved and closed without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepreduce.observers.mlflow import MlflowLogger
from tests.helpers.curves import mlflow_curve as curve
from tests.helpers.curves import mlflow_entries as entries
from tests.helpers.observers import FAILED, NETWORK, OTHER, RESULT, end, epoch, epochs, finish, start

pytest.importorskip("mlflow")

# MLflow's packages warn about themselves; making the tables of a store takes seconds
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.slow]


def logger_for(folder: Path) -> MlflowLogger:
    logger = MlflowLogger()
    logger.run_started(folder)
    return logger


def test_a_store_holds_each_epoch_once_through_a_kill_and_a_stop(tmp_path: Path) -> None:
    killed = logger_for(tmp_path)
    start(killed)
    killed.epoch_ended(NETWORK, epoch(1))
    killed.epoch_ended(NETWORK, epoch(2))  # trained, and lost with the process: the last snapshot is older
    stopped = logger_for(tmp_path)
    start(stopped, epochs=epochs(1))
    start(stopped, OTHER)
    stopped.epoch_ended(NETWORK, epoch(2))
    stopped.epoch_ended(OTHER, epoch(1, val_accuracy=None))
    stopped.close()
    assert {name: entry.info.status for name, entry in entries(tmp_path).items()} == {
        ".": "KILLED", NETWORK.folder: "KILLED", OTHER.folder: "KILLED",
    }  # fmt: skip
    resumed = logger_for(tmp_path)
    start(resumed, epochs=epochs(1, 2))
    start(resumed, OTHER, epochs=[epoch(1, val_accuracy=None)])
    resumed.epoch_ended(NETWORK, epoch(3))
    end(resumed)
    end(resumed, OTHER, FAILED)
    finish(resumed)
    resumed.close()

    found = entries(tmp_path)
    assert {name: entry.info.status for name, entry in found.items()} == {
        ".": "FINISHED", NETWORK.folder: "FINISHED", OTHER.folder: "FAILED",
    }  # fmt: skip
    assert curve(tmp_path, found[NETWORK.folder], "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert curve(tmp_path, found[OTHER.folder], "train_loss") == [(1, 1.0)]
    assert curve(tmp_path, found[OTHER.folder], "val_accuracy") == []
    assert found[NETWORK.folder].data.metrics["measured/test_accuracy"] == RESULT.test_accuracy
    assert found[NETWORK.folder].data.tags["mlflow.parentRunId"] == found["."].info.run_id
    assert found[OTHER.folder].data.tags["failure"] == FAILED.failure


def test_a_finished_run_keeps_tables_and_plots_and_is_left_as_it_is_when_it_was_moved(tmp_path: Path) -> None:
    made, moved = tmp_path / "run", tmp_path / "moved"
    made.mkdir()
    for name in ("candidates.csv", "frontier.csv", "frontier.png", "frontier.svg", "config.yaml", "log.txt"):
        (made / name).write_text(name)
    for folder in (made, moved):
        if folder == moved:
            shutil.move(made, moved)
        logger = logger_for(folder)
        start(logger, epochs=epochs(1, 2) if folder == moved else [])
        if folder == made:
            logger.epoch_ended(NETWORK, epoch(1))
            logger.epoch_ended(NETWORK, epoch(2))
        end(logger, was_done=folder == moved)
        finish(logger)
        logger.close()
        found = entries(folder)
        if folder == made:
            before = found
            kept = {p.name: p.read_text() for p in Path(found["."].info.artifact_uri).iterdir()}
            expected = ["candidates.csv", "config.yaml", "frontier.csv", "frontier.png"]
            assert kept == {name: name for name in expected}
    assert {name: (e.info.end_time, e.data.metrics) for name, e in found.items() if name != "."} == {
        name: (e.info.end_time, e.data.metrics) for name, e in before.items() if name != "."
    }
    assert not made.exists()


def test_mlflow_calls_nobody_and_says_nothing(tmp_path: Path) -> None:
    code = (
        "import logging, threading; from pathlib import Path; logging.basicConfig(level=logging.INFO)\n"
        "from deepreduce.observers.mlflow import MlflowLogger\n"
        "logger = MlflowLogger()\n"
        "logger.run_started(Path('.'))\n"
        "logger.close()\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
        "assert threading.active_count() == 1\n"
        "assert logging.getLogger('mlflow').level != logging.WARNING"
    )
    # these say to MLflow that nobody is there whose use it could report
    silent = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    environment = {key: value for key, value in os.environ.items() if key not in silent}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]
