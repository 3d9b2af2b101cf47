"""The interface of an executor, which runs tasks, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from deepreduce.execution.processes import ProcessExecutor
from deepreduce.execution.serial import SerialExecutor
from deepreduce.execution.task import TrainResult, TrainTask
from deepreduce.execution.trainer import TrainingContext
from deepreduce.training import TrainingEvent


class Executor(AbstractContextManager["Executor"], Protocol):
    """Runs tasks, in this process or elsewhere. Leaving the context ends whatever it started."""

    def run(
        self,
        tasks: Sequence[TrainTask],
        context: TrainingContext,
        *,
        on_event: Callable[[TrainTask, TrainingEvent], None],
        stop: Callable[[], bool],
    ) -> Iterator[tuple[TrainTask, TrainResult]]:
        """Train the tasks, of which none starts from another one; yield each with its result as it ends.

        The numbers are the same wherever a task is trained. `on_event` is called in this process. When `stop` returns
        true, every training that has begun saves its snapshot; then `Stopped` is raised. Also raises what
        `CandidateTrainer.train` does, and `RunError` where a process that trains is gone: then all trainings end as
        they are, and have their last snapshots to resume from.
        """
        ...


def open_executor(*, workers: int) -> Executor:
    """Return the executor that trains `workers` tasks at a time."""
    return ProcessExecutor(workers=workers) if workers > 1 else SerialExecutor()
