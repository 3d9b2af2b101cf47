"""Logs for TensorBoard and MLflow: what they hold is what the run folder holds, each epoch once."""

from __future__ import annotations

import csv
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

import deepreduce
from deepreduce.cli.main import run_command
from deepreduce.config.schema import OptimizeConfig
from deepreduce.cost.objective import Objective
from deepreduce.errors import ConfigError, RunInterrupted, UserError
from deepreduce.execution.task import TrainResult
from deepreduce.observers import ObservedNetwork, RunLoggers, open_loggers
from deepreduce.observers import base as subject
from deepreduce.run import optimize as pipeline
from deepreduce.training import EpochRecord
from tests.helpers.runs import NUM_CANDIDATES, NUM_PROBES, TINY, StopsIn

# other people's packages warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUICK: dict[str, Any] = {
    **TINY,
    "data": {**TINY["data"], "train_limit": 100},
    "training": {**TINY["training"], "epochs": 1},
    "method": {**TINY["method"], "alphas": [1.0]},
    "fast": {"margin": 1.0, "price": 20.0, "probe_share": 0.05},
}
"""Three short probes, and two levels of culling, each as it is and thinned, trained alone for the one epoch."""

NETWORK = ObservedNetwork(label="cull S1", plan_id="0123abcd", folder="candidates/0123abcd")
OUTCOME = TrainResult(val_accuracy=0.75, test_accuracy=0.5, churn=0.25, train_seconds=2.0, relu_count=64, macs=128)


def epoch(number: int, *, val_accuracy: float | None = 0.5) -> EpochRecord:
    return EpochRecord(
        epoch=number, learning_rate=0.1 / number, train_loss=1 / number, val_accuracy=val_accuracy, seconds=number
    )


class Listener:
    """Remembers what it was told; `broken` is the name of a call that fails."""

    def __init__(self, broken: str | None = None) -> None:
        self.told: list[str] = []
        self.epochs: list[int] = []
        self._broken = broken

    def begin(self, network: ObservedNetwork, epochs: Sequence[EpochRecord]) -> None:
        self._hear(f"begin {network.folder}")
        self.epochs += [record.epoch for record in epochs]

    def epoch(self, record: EpochRecord) -> None:
        self._hear("epoch")
        self.epochs.append(record.epoch)

    def end(self, outcome: TrainResult) -> None:
        self._hear("end")

    def finish(self, candidates: Sequence[deepreduce.Candidate], objective: Objective) -> None:
        self._hear("finish")

    def close(self) -> None:
        self._hear("close")

    def _hear(self, what: str) -> None:
        if what == self._broken:
            raise OSError("no space left")
        self.told.append(what)


# -- any logger -----------------------------------------------------------------------------------------------


def test_the_config_knows_the_loggers_that_there_are() -> None:
    named = get_args(get_args(OptimizeConfig.model_fields["log"].annotation)[0])
    assert set(named) == set(subject._PACKAGES)
    with pytest.raises(ConfigError, match="'tensorboard' or 'mlflow'"):
        deepreduce.load_config(settings=["log=wandb"])
    assert deepreduce.load_config(settings=["log=tensorboard,mlflow"]).log == ("tensorboard", "mlflow")


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "sqlalchemy")])
def test_a_missing_package_is_named_with_its_extra_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    with pytest.raises(UserError, match=rf"{name} needs .*{package}.*pip install 'deepreduce\[{name}\]'"):
        deepreduce.optimize(out=tmp_path / "run", log=[name], **TINY)
    assert not (tmp_path / "run").exists()


def test_a_logger_that_fails_is_named_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Listener(broken="epoch"), Listener()
    with RunLoggers({"one": broken, "other": sound}) as loggers:
        loggers.begin(NETWORK, [])
        loggers.epoch(epoch(1))
        loggers.epoch(epoch(2))
        loggers.end(OUTCOME)
    assert sound.told == ["begin candidates/0123abcd", "epoch", "epoch", "end", "close"]
    assert broken.told == ["begin candidates/0123abcd"]
    assert caplog.text.count("the log for one can't be written (no space left)") == 1


def test_a_logger_that_can_not_be_opened_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with open_loggers(["tensorboard"], tmp_path) as loggers:
        loggers.begin(NETWORK, [])
    assert "the log for tensorboard can't be written" in caplog.text


def test_a_run_tells_of_every_network_whether_trained_now_or_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, again = Listener(), Listener()
    for listener in (now, again):
        monkeypatch.setattr(subject, "_open", lambda name, folder, listener=listener: listener)
        deepreduce.optimize(out=tmp_path / "run", log=["tensorboard"], **QUICK)
    assert now.epochs == again.epochs == [1] * (1 + NUM_PROBES + 4)
    assert [what for what in now.told if what != "epoch"] == again.told
    assert again.told[:2] == ["begin teacher", "end"] and again.told[-2:] == ["finish", "close"]
    assert sum(what.startswith("begin candidates/") for what in again.told) == 4


@pytest.mark.slow
def test_a_run_with_students_side_by_side_tells_of_one_network_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    monkeypatch.setattr(subject, "_open", lambda name, folder: listener)
    deepreduce.optimize(out=tmp_path / "run", log=["tensorboard"], **{**QUICK, "side_by_side": 2})
    assert listener.epochs == [1] * (1 + NUM_PROBES + 4)
    kinds = [what.partition(" ")[0] for what in listener.told if what != "epoch"]
    assert kinds == ["begin", "end"] * (1 + NUM_PROBES + 4) + ["finish", "close"]


@pytest.mark.slow
def test_a_run_without_log_imports_no_logger(tmp_path: Path) -> None:
    code = (
        "import sys; from deepreduce.observers import open_loggers; from pathlib import Path;"
        "open_loggers([], Path('.')); assert not {'tensorboard', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_the_flag_may_be_given_for_each_logger(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(config: OptimizeConfig, **_: Any) -> None:
        asked.append(config.log)
        raise UserError("not now")

    monkeypatch.setattr(pipeline, "run", run)
    assert run_command(["optimize", "--log", "tensorboard", "--log", "mlflow"]) == 2
    assert run_command(["optimize"]) == 2
    assert asked == [("tensorboard", "mlflow"), ()]
    assert run_command(["optimize", "--log", "wandb"]) == 2
    assert "log[0] is 'wandb'" in capsys.readouterr().err


# -- TensorBoard ----------------------------------------------------------------------------------------------


def events(path: Path) -> Any:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = loading.EventAccumulator(str(path), purge_orphaned_data=False)
    accumulator.Reload()
    return accumulator


def curve(accumulator: Any, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def agree(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    """The same steps, each once and in order, with the same values as far as float32 holds them."""
    steps, values = [step for step, _ in found], [value for _, value in found]
    return steps == [step for step, _ in expected] and values == pytest.approx([value for _, value in expected])


def tensorboard_logger(folder: Path) -> Any:
    pytest.importorskip("tensorboard")
    from deepreduce.observers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(folder)


def test_tensorboard_holds_the_curves_and_what_was_measured(tmp_path: Path) -> None:
    logger = tensorboard_logger(tmp_path)
    logger.begin(NETWORK, [])
    logger.epoch(epoch(1, val_accuracy=None))
    logger.epoch(epoch(2))
    found = events(tmp_path / "tensorboard" / NETWORK.folder)  # at every moment, not only at the end
    assert curve(found, "train_loss") == [(1, 1.0), (2, 0.5)]
    logger.end(OUTCOME)
    found = events(tmp_path / "tensorboard" / NETWORK.folder)
    assert curve(found, "val_accuracy") == [(2, 0.5)]
    assert agree(curve(found, "learning_rate"), [(1, 0.1), (2, 0.05)])
    assert curve(found, "measured/relu_count") == [(0, 64)]
    assert curve(found, "measured/churn") == [(0, 0.25)]
    assert found.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"


def test_tensorboard_holds_each_epoch_once_after_a_resume_behind_the_last_one(tmp_path: Path) -> None:
    killed = tensorboard_logger(tmp_path)
    killed.begin(NETWORK, [])
    killed.epoch(epoch(1))
    killed.epoch(epoch(2))  # trained, and lost with the process: the last snapshot is older
    resumed = tensorboard_logger(tmp_path)
    resumed.begin(NETWORK, [epoch(1)])
    resumed.epoch(epoch(2))
    resumed.epoch(epoch(3))
    resumed.end(OUTCOME)
    killed.close()
    found = events(tmp_path / "tensorboard" / NETWORK.folder)
    assert [step for step, _ in curve(found, "train_loss")] == [1, 2, 3]
    times = [event.wall_time for event in found.Scalars("train_loss")]
    assert [late - times[0] for late in times] == pytest.approx([0, 1, 2])


def test_tensorboard_says_why_a_network_failed(tmp_path: Path) -> None:
    logger = tensorboard_logger(tmp_path)
    logger.begin(NETWORK, [])
    logger.end(TrainResult(relu_count=64, failure="the loss was not finite"))
    found = events(tmp_path / "tensorboard" / NETWORK.folder)
    assert b"not finite" in found.Tensors("failure/text_summary")[0].tensor_proto.string_val[0]


# -- whole runs -----------------------------------------------------------------------------------------------


def histories(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The training losses of every network but drafts, by its folder in the run."""
    found = {}
    for path in (p for p in folder.glob("**/history.csv") if p.parent.parent.name != "drafts"):
        with open(path, newline="", encoding="utf-8") as file:
            found[path.parent.relative_to(folder).as_posix()] = [
                (int(row["epoch"]), float(row["train_loss"])) for row in csv.DictReader(file)
            ]
    return found


def interrupted_run(folder: Path, names: list[str]) -> deepreduce.Result:
    """A run that is stopped three times, and told to log only after the first."""
    for i, number in enumerate((1, 2, 2 + NUM_PROBES)):  # the teacher, a probe, drafts
        with pytest.raises(RunInterrupted):
            deepreduce.optimize(out=folder, watcher=StopsIn(number), log=names if i else [], **TINY)
    return deepreduce.optimize(out=folder, log=names, **TINY)


@pytest.mark.slow
def test_tensorboard_shows_an_interrupted_run_as_one_that_never_was(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    result = interrupted_run(tmp_path / "run", ["tensorboard"])
    expected = histories(result.folder)
    assert len(expected) == 1 + NUM_PROBES + NUM_CANDIDATES
    for network, losses in expected.items():
        assert agree(curve(events(result.folder / "tensorboard" / network), "train_loss"), losses)
    found = events(result.folder / "tensorboard" / "frontier")
    front = [(n.relu_count, n.test_accuracy) for n in result.frontier]
    assert agree(curve(found, "frontier/test_accuracy"), front)
    shown = found.Tensors("frontier/text_summary")[0].tensor_proto.string_val[0].decode()
    assert all(n.plan_id in shown for n in result.frontier)


def mlflow_entries(folder: Path) -> dict[str, Any]:
    """What an MLflow client finds, by the network's folder in the run; '.' is the run itself."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("deepreduce")
    entries = client.search_runs([experiment.experiment_id], max_results=1000)
    return {entry.data.tags["deepreduce.folder"]: (client, entry) for entry in entries}


@pytest.mark.slow
def test_mlflow_shows_an_interrupted_run_as_one_that_never_was(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    result = interrupted_run(tmp_path / "run", ["mlflow"])
    entries, expected = mlflow_entries(result.folder), histories(result.folder)
    assert entries.keys() == {".", *expected}
    parent = entries["."][1]
    for network, losses in expected.items():
        client, entry = entries[network]
        curve = [(m.step, m.value) for m in client.get_metric_history(entry.info.run_id, "train_loss")]
        assert sorted(curve) == losses
        assert entry.info.status == "FINISHED"
        assert entry.data.tags["mlflow.parentRunId"] == parent.info.run_id
    for network in result.candidates:
        _, entry = entries[network.candidate.folder]
        assert entry.info.run_name == network.label
        assert entry.data.params == {"relu_count": str(network.relu_count)}
        assert entry.data.metrics["measured/test_accuracy"] == pytest.approx(network.test_accuracy)
        assert entry.data.metrics["measured/churn"] == pytest.approx(network.measurement.churn)
    kept = Path(parent.info.artifact_uri) / "frontier.csv"
    assert kept.read_bytes() == (result.folder / "frontier.csv").read_bytes()


@pytest.mark.slow
def test_mlflow_leaves_a_finished_run_as_it_is_and_writes_nothing_where_it_was_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    caplog.set_level(logging.WARNING)
    deepreduce.optimize(out=tmp_path / "run", log=["mlflow"], **QUICK)
    before = {
        name: (entry.info.end_time, entry.data.metrics)
        for name, (_, entry) in mlflow_entries(tmp_path / "run").items()
    }
    shutil.move(tmp_path / "run", tmp_path / "moved")
    deepreduce.optimize(out=tmp_path / "moved", log=["mlflow"], **QUICK)
    after = mlflow_entries(tmp_path / "moved")
    assert {name: entry.data.metrics for name, (_, entry) in after.items()} == {
        name: metrics for name, (_, metrics) in before.items()
    }
    assert not (tmp_path / "run").exists()
    assert "can't be written" not in caplog.text


@pytest.mark.slow
def test_mlflow_calls_nobody_and_says_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    code = (
        "import logging, threading; from pathlib import Path; logging.basicConfig(level=logging.INFO)\n"
        "from deepreduce.observers.mlflow import MlflowLogger\n"
        "MlflowLogger(Path('.')).close()\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
        "assert threading.active_count() == 1\n"
        "assert logging.getLogger('mlflow').level != logging.WARNING"
    )
    # these say to MLflow that nobody is there whose use it could report
    silent = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    environment = {key: value for key, value in os.environ.items() if key not in silent}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]
