"""TensorBoard's event files, under RUN/tensorboard: `tensorboard --logdir RUN/tensorboard`.

They are written here, with TensorBoard's own records, and not by torch's `SummaryWriter`: that writes in a thread, so
that a full disk is a traceback on the terminal, and is noticed by the run later or never.
"""

from __future__ import annotations

import os
import platform
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


class _EventFile:
    """An event file in a folder of its own, open only while an event is written to it. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        self._event = Event
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010}.{platform.node()}.{os.getpid()}"
        self._path = folder / name
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, summary: Any, step: int = 0, *, seconds: float | None = None) -> None:
        """Write a summary of that step, at that time on the clock (None: now)."""
        self._write(self._event(summary=summary, step=step, wall_time=time.time() if seconds is None else seconds))

    def add_scalar(self, name: str, value: float, step: int = 0, *, seconds: float | None = None) -> None:
        """Write a number."""
        from torch.utils.tensorboard.summary import scalar

        self.add(scalar(name, value), step, seconds=seconds)  # type: ignore[no-untyped-call]

    def add_text(self, name: str, value: str) -> None:
        """Write a text in Markdown."""
        from torch.utils.tensorboard.summary import text

        self.add(text(name, value))  # type: ignore[no-untyped-call]

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with open(self._path, "ab", buffering=0) as file:
            RecordWriter(file).write(event.SerializeToString())


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A network's events; `start` is the time on the clock when its training would have begun."""

    events: _EventFile
    start: float

    def add(self, record: EpochRecord) -> None:
        for name, value in epoch_metrics(record).items():
            self.events.add_scalar(name, value, record.epoch, seconds=self.start + record.seconds)


class TensorBoardLogger(RunObserver):
    """Writes a folder of events for each network; a network that is resumed has its folder written again."""

    def __init__(self) -> None:
        self._path = Path()
        self._curves: dict[str, _Curve] = {}

    def run_started(self, folder: Path) -> None:
        self._path = folder / "tensorboard"

    def network_started(self, network: ObservedNetwork, *, epochs: Sequence[EpochRecord], **_: Any) -> None:
        start = time.time() - (epochs[-1].seconds if epochs else 0.0)
        curve = self._curves[network.folder] = _Curve(events=_EventFile(self._path / network.folder), start=start)
        for record in epochs:
            curve.add(record)

    def epoch_ended(self, network: ObservedNetwork, record: EpochRecord) -> None:
        self._curves[network.folder].add(record)

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        from torch.utils.tensorboard.summary import hparams

        events, values = self._curves.pop(network.folder).events, result_metrics(result)
        for name, value in values.items():
            events.add_scalar(name, value)
        # a row in the table of networks
        row = {"network": network.label, "plan_id": network.plan_id, "relu_count": result.relu_count}
        for summary in hparams(row, values):  # type: ignore[no-untyped-call]
            events.add(summary)
        if result.failure is not None:
            events.add_text("failure", result.failure)

    def run_finished(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        front = front_by(objective, candidates)
        teacher = next(c for c in candidates if c.is_teacher)
        events = _EventFile(self._path / "frontier")
        events.add_text("frontier", _markdown(*frontier_rows(front, teacher=teacher, objective=objective)))
        for candidate in front:
            point = measurement_of(candidate)
            # TensorBoard draws against steps, so that the ReLUs are the steps
            events.add_scalar("frontier/val_accuracy", point.val_accuracy, candidate.relu_count)
            events.add_scalar("frontier/test_accuracy", point.test_accuracy, candidate.relu_count)

    def close(self) -> None:
        self._curves.clear()


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
