"""An MLflow store under RUN/mlruns, without a server: `mlflow ui --backend-store-uri sqlite:///RUN/mlruns/mlflow.db`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import Objective
from deepreduce.execution.task import TrainResult
from deepreduce.observers.base import ObservedNetwork, RunObserver, epoch_metrics, result_metrics
from deepreduce.store.names import CONFIG
from deepreduce.training import EpochRecord
from deepreduce.utils.optional import quiet_loggers

_FOLDER = "deepreduce.folder"
"""The tag by which a network's entry is found again."""

_RUNNING, _DONE, _FAILED, _KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
_ARTIFACTS = ("*.csv", "*.png", CONFIG)
"""Patterns of the files of a run's folder that the run's entry keeps: tables, plots, config."""


@dataclass(kw_only=True)
class _Curve:
    """A network's entry that is written, the epochs in it, and when its training would have begun without a break."""

    run_id: str
    known: set[int]
    start: float


class MlflowLogger(RunObserver):
    """Keeps an entry for the run, and below it one for each network; an entry that is done is left as it is."""

    def __init__(self) -> None:
        self._curves: dict[str, _Curve] = {}
        self._run: Any = None  # MLflow's entry for the whole run; None: not begun, or done

    def run_started(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._client, self._experiment = _open_store(self._folder)
        self._run = self._entry(self._folder.name, ".", {})

    def network_started(self, network: ObservedNetwork, *, epochs: Sequence[EpochRecord], **_: Any) -> None:
        tags = {"mlflow.parentRunId": self._run.info.run_id, "plan_id": network.plan_id}
        entry = self._entry(network.label, network.folder, tags)
        if entry.info.status in (_DONE, _FAILED):
            return
        self._curves[network.folder] = _Curve(
            run_id=entry.info.run_id,
            known={m.step for m in self._client.get_metric_history(entry.info.run_id, "train_loss")},
            start=time.time() - (epochs[-1].seconds if epochs else 0.0),
        )
        for record in epochs:
            self.epoch_ended(network, record)

    def epoch_ended(self, network: ObservedNetwork, record: EpochRecord) -> None:
        curve = self._curves.get(network.folder)
        # what was trained since the last snapshot is trained once more after a kill, and gives the same numbers
        if curve is not None and record.epoch not in curve.known:
            seconds = curve.start + record.seconds
            self._log(curve.run_id, epoch_metrics(record), step=record.epoch, seconds=seconds)
            curve.known.add(record.epoch)

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        curve = self._curves.pop(network.folder, None)
        if curve is None:
            return
        self._client.log_param(curve.run_id, "relu_count", result.relu_count)
        self._log(curve.run_id, result_metrics(result), step=0, seconds=time.time())
        if result.failure is not None:
            self._client.set_tag(curve.run_id, "failure", result.failure)
        self._client.set_terminated(curve.run_id, _DONE if result.failure is None else _FAILED)

    def run_finished(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        info = self._run.info
        # a store remembers where its files are: those of a run that was moved would go to its old place
        if info.status != _DONE and Path(info.artifact_uri).is_relative_to(self._folder):
            for path in sorted(path for pattern in _ARTIFACTS for path in self._folder.glob(pattern)):
                self._client.log_artifact(info.run_id, str(path))
        self._client.set_terminated(info.run_id, _DONE)
        self._run = None

    def close(self) -> None:
        while self._curves:
            self._client.set_terminated(self._curves.popitem()[1].run_id, _KILLED)
        if self._run is not None and self._run.info.status != _DONE:
            self._client.set_terminated(self._run.info.run_id, _KILLED)
        self._run = None

    def _entry(self, name: str, folder: str, tags: dict[str, str]) -> Any:
        """Return the entry for a folder of the run, which is opened again where it was killed."""
        found = self._client.search_runs([self._experiment], f"tags.`{_FOLDER}` = '{folder}'")
        if not found:
            return self._client.create_run(self._experiment, run_name=name, tags={_FOLDER: folder, **tags})
        if found[0].info.status == _KILLED:
            self._client.update_run(found[0].info.run_id, status=_RUNNING)
        return found[0]

    def _log(self, run_id: str, values: dict[str, float], *, step: int, seconds: float) -> None:
        from mlflow.entities import Metric

        moment = int(1000 * seconds)
        metrics = [Metric(key=name, value=value, timestamp=moment, step=step) for name, value in values.items()]
        self._client.log_batch(run_id, metrics=metrics)


def _open_store(folder: Path) -> tuple[Any, str]:
    """Return a client of the store below `folder`, made where it is not there, and the id of its one experiment."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import; a log of ours calls nobody
    from mlflow.tracking import MlflowClient

    store = folder / "mlruns"
    store.mkdir(exist_ok=True)
    with quiet_loggers("mlflow", "alembic"):  # they report every table that they make
        client = MlflowClient(tracking_uri=f"sqlite:///{(store / 'mlflow.db').as_posix()}")
        known = client.get_experiment_by_name("deepreduce")
    if known is not None:
        return client, str(known.experiment_id)
    return client, str(client.create_experiment("deepreduce", artifact_location=str(store / "artifacts")))
