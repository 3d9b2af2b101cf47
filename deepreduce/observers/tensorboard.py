"""TensorBoard's event files, under RUN/tensorboard: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import Objective
from deepreduce.execution.task import TrainResult
from deepreduce.frontier import front_by, measurement_of
from deepreduce.observers.base import ObservedNetwork, RunObserver, epoch_metrics, result_metrics
from deepreduce.report.tables import frontier_rows
from deepreduce.training import EpochRecord


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """The writer of a network's events; `start` is the time on the clock when its training would have begun."""

    writer: Any
    start: float

    def add(self, record: EpochRecord) -> None:
        for name, value in epoch_metrics(record).items():
            self.writer.add_scalar(name, value, record.epoch, walltime=self.start + record.seconds)


class TensorBoardLogger(RunObserver):
    """Writes a folder of events for each network; a network that is resumed has its folder written again."""

    def __init__(self) -> None:
        self._path = Path()
        self._curves: dict[str, _Curve] = {}

    def run_started(self, folder: Path) -> None:
        self._path = folder / "tensorboard"

    def network_started(self, network: ObservedNetwork, *, epochs: Sequence[EpochRecord], **_: Any) -> None:
        if network.plan_id is None:
            return
        start = time.time() - (epochs[-1].seconds if epochs else 0.0)
        curve = self._curves[network.folder] = _Curve(writer=self._new_writer(network.folder), start=start)
        for record in epochs:
            curve.add(record)
        curve.writer.flush()

    def epoch_ended(self, network: ObservedNetwork, record: EpochRecord) -> None:
        if network.folder in self._curves:
            curve = self._curves[network.folder]
            curve.add(record)
            curve.writer.flush()

    def network_ended(self, network: ObservedNetwork, results: Sequence[TrainResult], *, was_done: bool) -> None:
        from torch.utils.tensorboard.summary import hparams

        if network.folder not in self._curves:
            return
        writer, (result,) = self._curves.pop(network.folder).writer, results
        values = result_metrics(result)
        for name, value in values.items():
            writer.add_scalar(name, value, 0)
        # a row in the table of networks; add_hparams would open a folder of its own for it
        row = {"network": network.label, "plan_id": network.plan_id, "relu_count": result.relu_count}
        for summary in hparams(row, values):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)
        if result.failure is not None:
            writer.add_text("failure", result.failure, 0)
        writer.close()

    def run_finished(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        front = front_by(objective, candidates)
        teacher = next(c for c in candidates if c.is_teacher)
        with self._new_writer("frontier") as writer:
            writer.add_text("frontier", _markdown(*frontier_rows(front, teacher=teacher, objective=objective)), 0)
            for candidate in front:
                point = measurement_of(candidate)
                # TensorBoard draws against steps, so that the ReLUs are the steps
                writer.add_scalar("frontier/val_accuracy", point.val_accuracy, candidate.relu_count)
                writer.add_scalar("frontier/test_accuracy", point.test_accuracy, candidate.relu_count)

    def close(self) -> None:
        while self._curves:
            self._curves.popitem()[1].writer.close()

    def _new_writer(self, name: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        path = self._path / name
        if path.exists():
            shutil.rmtree(path)
        return SummaryWriter(str(path))


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
