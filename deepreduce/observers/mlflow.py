"""An MLflow store under RUN/mlruns, without a server: `mlflow ui --backend-store-uri sqlite:///RUN/mlruns/mlflow.db`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import Objective
from deepreduce.execution.task import TrainResult
from deepreduce.observers.base import ObservedNetwork, curves, measured
from deepreduce.store.names import CANDIDATES_CSV, FRONTIER_CSV, FRONTIER_PLOTS
from deepreduce.store.names import CONFIG
from deepreduce.training import EpochRecord
from deepreduce.utils.optional import quiet_loggers

_FOLDER = "deepreduce.folder"
"""The tag by which a network's entry is found again."""

_RUNNING, _DONE, _FAILED, _KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
_ARTIFACTS = (FRONTIER_CSV, CANDIDATES_CSV, FRONTIER_PLOTS[0], CONFIG)


class MlflowLogger:
    """An entry for the run, and below it one for each network; an entry that is done is left as it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._client, self._experiment = _opened(self._folder)
        self._parent: Any = self._entry(self._folder.name, ".", {})
        self._open: Any = None
        self._known: set[int] = set()
        self._start = 0.0

    def begin(self, network: ObservedNetwork, epochs: Sequence[EpochRecord]) -> None:
        tags = {"mlflow.parentRunId": self._parent.info.run_id, "plan_id": network.plan_id}
        entry = self._entry(network.label, network.folder, tags)
        if entry.info.status in (_DONE, _FAILED):
            return
        self._open = entry
        self._start = time.time() - (epochs[-1].seconds if epochs else 0.0)
        self._known = {m.step for m in self._client.get_metric_history(entry.info.run_id, "train_loss")}
        for record in epochs:
            self.epoch(record)

    def epoch(self, record: EpochRecord) -> None:
        # what was trained since the last snapshot is trained once more after a kill, and gives the same numbers
        if self._open is not None and record.epoch not in self._known:
            self._log(curves(record), step=record.epoch, seconds=self._start + record.seconds)
            self._known.add(record.epoch)

    def end(self, outcome: TrainResult) -> None:
        if self._open is None:
            return
        run_id = self._open.info.run_id
        self._client.log_param(run_id, "relu_count", outcome.relu_count)
        self._log(measured(outcome), step=0, seconds=time.time())
        if outcome.failure is not None:
            self._client.set_tag(run_id, "failure", outcome.failure)
        self._terminate(_DONE if outcome.failure is None else _FAILED)

    def finish(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        info = self._parent.info
        # a store remembers where its files are: those of a run that was moved would go to its old place
        if info.status != _DONE and Path(info.artifact_uri).is_relative_to(self._folder):
            for name in _ARTIFACTS:
                self._client.log_artifact(info.run_id, str(self._folder / name))
        self._open = self._parent
        self._terminate(_DONE)

    def close(self) -> None:
        if self._open is not None:
            self._terminate(_KILLED)

    def _entry(self, name: str, folder: str, tags: dict[str, str]) -> Any:
        found = self._client.search_runs([self._experiment], f"tags.`{_FOLDER}` = '{folder}'")
        if not found:
            return self._client.create_run(self._experiment, run_name=name, tags={_FOLDER: folder, **tags})
        if found[0].info.status == _KILLED:
            self._client.update_run(found[0].info.run_id, status=_RUNNING)
        return found[0]

    def _log(self, values: dict[str, float], *, step: int, seconds: float) -> None:
        from mlflow.entities import Metric

        moment = int(1000 * seconds)
        metrics = [Metric(key=name, value=value, timestamp=moment, step=step) for name, value in values.items()]
        self._client.log_batch(self._open.info.run_id, metrics=metrics)

    def _terminate(self, status: str) -> None:
        self._client.set_terminated(self._open.info.run_id, status)
        self._open = None


def _opened(folder: Path) -> tuple[Any, str]:
    """A client of the store below `folder`, made where it is not there, and the one experiment in it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import; a log of ours calls nobody
    from mlflow.tracking import MlflowClient

    store = folder / "mlruns"
    store.mkdir(exist_ok=True)
    with quiet_loggers("mlflow", "alembic"):  # progress of making tables
        client = MlflowClient(tracking_uri=f"sqlite:///{(store / 'mlflow.db').as_posix()}")
        known = client.get_experiment_by_name("deepreduce")
    if known is not None:
        return client, str(known.experiment_id)
    return client, str(client.create_experiment("deepreduce", artifact_location=str(store / "artifacts")))
