"""TensorBoard's event files, under RUN/tensorboard: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import Objective
from deepreduce.execution.task import TrainResult
from deepreduce.frontier import front_by, measurement_of
from deepreduce.observers.base import ObservedNetwork, curves, measured
from deepreduce.report.tables import frontier_rows
from deepreduce.training import EpochRecord


class TensorBoardLogger:
    """A folder of events for each network, written anew from what is known whenever the network comes up."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tensorboard"
        self._network: ObservedNetwork | None = None
        self._writer: Any = None
        self._start = 0.0

    def begin(self, network: ObservedNetwork, epochs: Sequence[EpochRecord]) -> None:
        self._network, self._writer = network, self._fresh(network.folder)
        self._start = time.time() - (epochs[-1].seconds if epochs else 0.0)
        for record in epochs:
            self._add(record)
        self._writer.flush()

    def epoch(self, record: EpochRecord) -> None:
        self._add(record)
        self._writer.flush()

    def end(self, outcome: TrainResult) -> None:
        from torch.utils.tensorboard.summary import hparams

        assert self._network is not None
        values = measured(outcome)
        for name, value in values.items():
            self._writer.add_scalar(name, value, 0)
        # a row in the table of networks; add_hparams would open a folder of its own for it
        row = {"network": self._network.label, "plan_id": self._network.plan_id, "relu_count": outcome.relu_count}
        for summary in hparams(row, values):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)
        if outcome.failure is not None:
            self._writer.add_text("failure", outcome.failure, 0)
        self.close()

    def finish(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        front = front_by(objective, candidates)
        teacher = next(c for c in candidates if c.is_teacher)
        self._writer = self._fresh("frontier")
        self._writer.add_text("frontier", _markdown(*frontier_rows(front, teacher=teacher, objective=objective)), 0)
        for candidate in front:
            point = measurement_of(candidate)
            # TensorBoard draws against steps, so that the ReLUs are the steps
            self._writer.add_scalar("frontier/val_accuracy", point.val_accuracy, candidate.relu_count)
            self._writer.add_scalar("frontier/test_accuracy", point.test_accuracy, candidate.relu_count)
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _fresh(self, name: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        path = self._path / name
        if path.exists():
            shutil.rmtree(path)
        return SummaryWriter(str(path))

    def _add(self, record: EpochRecord) -> None:
        for name, value in curves(record).items():
            self._writer.add_scalar(name, value, record.epoch, walltime=self._start + record.seconds)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
