"""Who keeps the log of a run, and how several of them are told at once.

The run folder is the truth, and a log follows it: when a network begins, goes on or turns out to be done, a logger is
handed the epochs that are behind it, and keeps each of them once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import Objective
from deepreduce.execution.trainer import TrainResult
from deepreduce.training import EpochRecord
from deepreduce.utils.optional import require_packages

log = logging.getLogger(__name__)

_PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


@dataclass(frozen=True, kw_only=True)
class ObservedNetwork:
    """A network as logs name it: its `folder` within the run, such as candidates/HASH, is unique."""

    label: str
    plan_id: str
    folder: str


class RunLogger(Protocol):
    """Keeps the log of a run, one network after the other."""

    def begin(self, network: ObservedNetwork, epochs: Sequence[EpochRecord]) -> None:
        """A network of which `epochs` have been trained, all of them where it is done."""

    def epoch(self, record: EpochRecord) -> None:
        """Another epoch of it was trained."""

    def end(self, outcome: TrainResult) -> None:
        """It is done, and was measured."""

    def finish(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        """All networks are done, and the tables are written; the teacher is among `candidates`.

        The frontier is that of the objective.
        """

    def close(self) -> None:
        """The run ends, perhaps in the middle of a network."""


class RunLoggers:
    """Several loggers as one. One that fails is named in the run's log and left out: no curve is worth a run."""

    def __init__(self, loggers: Mapping[str, RunLogger]) -> None:
        self._loggers = dict(loggers)

    def begin(self, network: ObservedNetwork, epochs: Sequence[EpochRecord]) -> None:
        self._tell(lambda logger: logger.begin(network, epochs))

    def epoch(self, record: EpochRecord) -> None:
        self._tell(lambda logger: logger.epoch(record))

    def end(self, outcome: TrainResult) -> None:
        self._tell(lambda logger: logger.end(outcome))

    def finish(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        self._tell(lambda logger: logger.finish(candidates, objective))

    def close(self) -> None:
        self._tell(lambda logger: logger.close())

    def __enter__(self) -> RunLoggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, act: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                act(logger)
            except Exception as error:  # whatever a package of others may raise
                _give_up(name, error)
                del self._loggers[name]


def check_installed(names: Sequence[str]) -> None:
    """Raises `UserError` that names the extra where a logger's package is missing."""
    for name in names:
        require_packages(f"log: {name}", *_PACKAGES[name], extra=name)


def open_loggers(names: Sequence[str], folder: Path) -> RunLoggers:
    """The loggers of those names, for the run in `folder`."""
    opened: dict[str, RunLogger] = {}
    for name in names:
        try:
            opened[name] = _open(name, folder)
        except Exception as error:
            _give_up(name, error)
    return RunLoggers(opened)


def _open(name: str, folder: Path) -> RunLogger:
    if name == "tensorboard":
        from deepreduce.observers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(folder)
    from deepreduce.observers.mlflow import MlflowLogger

    return MlflowLogger(folder)


def _give_up(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    log.warning("the log for %s can't be written (%s); the run goes on without it", name, reason)


def curves(record: EpochRecord) -> dict[str, float]:
    """What is logged of an epoch; an accuracy that was not measured is absent."""
    values = {"train_loss": record.train_loss, "learning_rate": record.learning_rate}
    return values if record.val_accuracy is None else {**values, "val_accuracy": record.val_accuracy}


def measured(outcome: TrainResult) -> dict[str, float]:
    """What is logged of a network that is done: counts, and accuracies as fractions where they were measured."""
    values = {
        "relu_count": outcome.relu_count,
        "macs": outcome.macs,
        "val_accuracy": outcome.val_accuracy,
        "test_accuracy": outcome.test_accuracy,
        "churn": outcome.churn,
        "train_seconds": outcome.train_seconds,
    }
    return {f"measured/{name}": float(value) for name, value in values.items() if value is not None}
