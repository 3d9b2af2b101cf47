"""Run training tasks: skip what is finished, execute the rest, and tell the observers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

from deepreduce.candidate import TEACHER_ID
from deepreduce.execution.executor import Executor
from deepreduce.execution.task import TrainResult, TrainTask
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.observers import ObservedNetwork, RunObserver
from deepreduce.training import EpochEnded, EpochRecord, Started, Stepped, Stopped, TrainingEvent

K = TypeVar("K", bound=Hashable)


class Runner:
    """Runs tasks by an executor, until `stop` returns true; observers hear of every network, with its number."""

    def __init__(self, executor: Executor, observers: RunObserver, *, stop: Callable[[], bool]) -> None:
        self.stop = stop
        self._executor, self._observers = executor, observers
        self._started, self._begun = 0, 0.0
        self._count, self._total = 0, 0.0

    def expect(self, count: int, work: float) -> None:
        """Let the observers know that `count` networks are still to come, with `work` multiply-accumulates."""
        self._count, self._total = self._started + count, self._begun + work

    def run(
        self, tasks: Mapping[K, TrainTask], works: Mapping[K, float], context: TrainingContext
    ) -> Iterator[tuple[K, TrainResult]]:
        """Yield every key with the result of its task: first those that are finished, the others as they end.

        `works` are the tasks' multiply-accumulates. None of the tasks may start from another one of them. Raises as
        `Executor.run` does.
        """
        trainer, unfinished = CandidateTrainer(context), []
        keys = {task.folder: key for key, task in tasks.items()}
        for key, task in tasks.items():
            result = trainer.finished(task)
            if result is None:
                unfinished.append(task)
                continue
            if self.stop():
                raise Stopped
            self._start(task, works[key], trainer.history(task))
            self._observers.network_ended(_observed(task), result, was_done=True)
            yield key, result

        def tell(task: TrainTask, event: TrainingEvent) -> None:
            match event:
                case Started():
                    self._start(task, works[keys[task.folder]], event.epochs)
                case Stepped():
                    self._observers.step_ended(_observed(task), event.progress)
                case EpochEnded():
                    self._observers.epoch_ended(_observed(task), event.record)

        for task, result in self._executor.run(unfinished, context, on_event=tell, stop=self.stop):
            self._observers.network_ended(_observed(task), result, was_done=False)
            yield keys[task.folder], result

    def _start(self, task: TrainTask, work: float, epochs: Sequence[EpochRecord]) -> None:
        """Count the task, and tell that its training begins with those epochs behind it."""
        self._started += 1
        self._begun += work
        self._observers.network_started(
            _observed(task), number=self._started, count=self._count, work=work, total=self._total, epochs=epochs
        )


def _observed(task: TrainTask) -> ObservedNetwork:
    """Return the task as observers name it."""
    plan = task.student.plan
    plan_id = TEACHER_ID if plan.is_empty else plan.plan_id
    return ObservedNetwork(label=task.name, folder=task.folder, plan_id=plan_id)
