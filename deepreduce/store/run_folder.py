"""The run folder: one run at a time, resumable after a kill at any moment.

```
RUN/
  config.yaml  environment.json  log.txt  criticality.json  costs.json
  teacher/  {probes,drafts,candidates}/<hash>/     plan.json  model.safetensors  metrics.json  history.csv
                                               private-PROTOCOL.json, by 'deepreduce private run'
  candidates.csv  frontier.csv  frontier.png  frontier.svg  layers.png
```

`metrics.json` is written last and says that a network is done; until then `training.safetensors` holds its state.
`teacher-answers.bin` is there while the run goes on.
"""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
from torch import Tensor

from deepreduce.config.schema import OptimizeConfig, differing_keys, dump_config, load_config
from deepreduce.cost.model import CostModel
from deepreduce.cost.price import CostEstimate
from deepreduce.errors import CheckpointError, RunFolderError, UserError
from deepreduce.training import EpochRecord, Snapshot
from deepreduce.training.autotune import ExecutionPlan
from deepreduce.utils.files import (
    TEMPORARY,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
    writing,
)

CRITICALITY, COSTS = "criticality.json", "costs.json"
ANSWERS = "teacher-answers.bin"
"""The teacher's logits of augmented images, while the run goes on."""
CONFIG, ENVIRONMENT, LOG, LOCK = "config.yaml", "environment.json", "log.txt", ".lock"
PLAN, WEIGHTS, METRICS, HISTORY, STATE = (
    "plan.json",
    "model.safetensors",
    "metrics.json",
    "history.csv",
    "training.safetensors",
)
log = logging.getLogger(__name__)

_OURS_BEFORE_CONFIG = {LOCK, LOG, ENVIRONMENT, ENVIRONMENT + TEMPORARY, CONFIG + TEMPORARY}
"""What a run that was killed in its first moments leaves behind."""


class RunFolder:
    """A run's folder, locked while it is open. Use as a context manager."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, config: OptimizeConfig, environment: Mapping[str, Any]) -> RunFolder:
        """Create the folder, or go on with the run in it.

        `environment["identity"]` (fingerprints of model and data) must be the same as when the run began. Raises
        `RunFolderError` where the folder holds something else, belongs to another config, is in use by another
        process or can't be written; it is then left as it was.
        """
        _refuse_foreign(path)
        if (path / CONFIG).exists():
            _check_same_run(path, config, environment)  # before anything is touched, the lock included
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path / LOCK, timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise RunFolderError(
                    f"{path} is in use by another run; wait for it to end, or give another folder with --out"
                ) from None
        try:
            if (path / CONFIG).exists():
                _check_same_run(path, config, environment)  # again: another process may have begun in between
            with writing(path):
                for leftover in path.rglob("*" + TEMPORARY):
                    leftover.unlink(missing_ok=True)
            if not (path / CONFIG).exists():
                write_json(path / ENVIRONMENT, environment)
                write_text(path / CONFIG, dump_config(config))
        except BaseException:
            lock.release()
            raise
        return cls(path, lock)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def entry(self, *parts: str) -> NetworkFolder:
        """The folder of one network, created where it is not there."""
        path = self.path.joinpath(*parts)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return NetworkFolder(path=path)


def recorded_arrangement(path: Path) -> ExecutionPlan | None:
    """How the run in this folder trains; None where none has begun or it is not known."""
    try:
        return ExecutionPlan.from_json(read_json(path / ENVIRONMENT)["arrangement"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return None


def _refuse_foreign(path: Path) -> None:
    with writing(path):
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; give a folder with --out")
        found = {p.name for p in path.iterdir()} if path.exists() else set()
    foreign = found - _OURS_BEFORE_CONFIG
    if foreign and CONFIG not in found:
        raise RunFolderError(
            f"{path} holds other files ({', '.join(sorted(foreign)[:3])}) and no {CONFIG}; give another folder"
        )


def _check_same_run(path: Path, config: OptimizeConfig, environment: Mapping[str, Any]) -> None:
    different = differing_keys(load_config(path / CONFIG), config)
    if different:
        raise RunFolderError(
            f"{path} belongs to a run with other settings: {', '.join(different)}; give another folder with --out"
        )
    try:
        before = dict(read_json(path / ENVIRONMENT)["identity"])
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path} can't be resumed: its {ENVIRONMENT} is missing or corrupt; give another folder with --out"
        ) from error
    for name in {**before, **environment["identity"]}:
        value = environment["identity"].get(name)
        if before.get(name) != value:
            raise RunFolderError(
                f"{path} belongs to a run with another {name} ({before.get(name)}, now {value}); give another folder"
            )


@dataclass(frozen=True, kw_only=True)
class NetworkFolder:
    """The files of one network of the run: teacher, probe, draft or candidate."""

    path: Path

    def finished(self) -> dict[str, Any] | None:
        """Its metrics where it is done; None where it is not. Raises `CheckpointError` for a corrupt file.

        The state of its training goes, which a process that was killed right after writing the metrics has left.
        """
        if not (self.path / METRICS).exists():
            return None
        metrics = read_json(self.path / METRICS)
        if not isinstance(metrics, dict):
            raise CheckpointError(f"{self.path / METRICS} can't be read: it holds no metrics")
        self._drop_state()
        return metrics

    def weights(self) -> dict[str, Tensor]:
        """Its trained weights by name. Raises `CheckpointError` where they are missing or corrupt."""
        return read_tensors(self.path / WEIGHTS)[0]

    def finish(
        self,
        *,
        weights: Mapping[str, Tensor] | None,
        description: Mapping[str, Any],
        metrics: Mapping[str, Any],
        history: Sequence[EpochRecord],
    ) -> None:
        """Write all files of a network that is done (`weights` None: that failed); metrics last."""
        write_json(self.path / PLAN, dict(description))
        write_text(self.path / HISTORY, history_csv(history))
        if weights is not None:
            write_tensors(self.path / WEIGHTS, weights, {})
        write_json(self.path / METRICS, dict(metrics))
        self._drop_state()

    def _drop_state(self) -> None:
        with suppress(OSError):
            (self.path / STATE).unlink(missing_ok=True)

    def history(self) -> tuple[EpochRecord, ...]:
        """The epochs of a network that is done. Raises `CheckpointError` where the file is missing or corrupt."""
        path = self.path / HISTORY
        try:
            return read_history_csv(path.read_text(encoding="utf-8"))
        except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a history of training: {error}") from error

    def check_description(self, description: Mapping[str, Any]) -> None:
        """Write plan.json again where it says something else or can't be read; it follows from the run alone."""
        try:
            known = read_json(self.path / PLAN)
        except CheckpointError as error:
            log.warning("%s; writing it again", error)
            known = None
        if known != description:
            write_json(self.path / PLAN, dict(description))

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep the state of a training that goes on."""
        write_tensors(self.path / STATE, snapshot.tensors, snapshot.values)

    def snapshot(self) -> Snapshot | None:
        """The state that was kept last, if any. Raises `CheckpointError` where it is corrupt."""
        if not (self.path / STATE).exists():
            return None
        tensors, values = read_tensors(self.path / STATE)
        return Snapshot(tensors=tensors, values=values)

    def clear(self) -> None:
        """Forget everything about this network."""
        with writing(self.path):
            shutil.rmtree(self.path)
            self.path.mkdir()

    def discard(self) -> None:
        """Forget it, and remove the folder."""
        with writing(self.path):
            shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class MeasuredCriticality:
    """What probes found of each stage: its criticality, and the validation accuracy with ReLUs in it alone."""

    criticality: Mapping[str, float]
    val_accuracy: Mapping[str, float]


def read_criticality(folder: Path) -> MeasuredCriticality | None:
    """Of a run; None where its order of culling was given, or is still being measured.

    Raises `CheckpointError` for a corrupt file.
    """
    path = folder / CRITICALITY
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        return MeasuredCriticality(
            criticality={str(stage): float(worth) for stage, worth in found["criticality"].items()},
            val_accuracy={str(stage): float(found["val_accuracy"][stage]) for stage in found["criticality"]},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the criticality of stages: {error}") from error


@dataclass(frozen=True, kw_only=True)
class RunCosts:
    """What networks are estimated to cost: the models by their names, and prices by plan_id, then by preset."""

    models: Mapping[str, CostModel]
    prices: Mapping[str, Mapping[str, CostEstimate]]

    def write(self, folder: Path) -> None:
        """Into a run's folder."""
        value = {
            "models": {name: model.to_json() for name, model in self.models.items()},
            "prices": {
                plan_id: {preset: price.to_json() for preset, price in prices.items()}
                for plan_id, prices in self.prices.items()
            },
        }
        write_json(folder / COSTS, value)


def read_costs(folder: Path) -> RunCosts:
    """Of a run, empty where it was not asked for any. Raises `CheckpointError` for a corrupt file."""
    path = folder / COSTS
    if not path.is_file():
        return RunCosts(models={}, prices={})
    found = read_json(path)
    try:
        return RunCosts(
            models={name: CostModel.from_json(model) for name, model in found["models"].items()},
            prices={
                plan_id: {preset: CostEstimate.from_json(price) for preset, price in prices.items()}
                for plan_id, prices in found["prices"].items()
            },
        )
    except (AttributeError, KeyError, TypeError, UserError) as error:
        raise CheckpointError(f"{path} does not hold the costs of networks: {error}") from error


def history_csv(history: Sequence[EpochRecord]) -> str:
    """Epochs as CSV; an accuracy that was not measured is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["epoch", "learning_rate", "train_loss", "val_accuracy", "seconds"], lineterminator="\n"
    )
    writer.writeheader()
    for record in history:
        row = asdict(record)
        row["seconds"] = f"{record.seconds:.2f}"
        writer.writerow(row)
    return text.getvalue()


def read_history_csv(text: str) -> tuple[EpochRecord, ...]:
    """The epochs of `history_csv`. Raises `KeyError`, `TypeError` or `ValueError` for another text."""
    return tuple(
        EpochRecord(
            epoch=int(row["epoch"]),
            learning_rate=float(row["learning_rate"]),
            train_loss=float(row["train_loss"]),
            val_accuracy=float(row["val_accuracy"]) if row["val_accuracy"] else None,
            seconds=float(row["seconds"]),
        )
        for row in csv.DictReader(io.StringIO(text))
    )
