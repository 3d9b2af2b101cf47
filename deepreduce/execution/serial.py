"""Run tasks one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType

from deepreduce.execution.task import TrainResult, TrainTask
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.training import Stopped, TrainingEvent
from deepreduce.training.autotune import using_threads


class SerialExecutor:
    """Runs one task after the other, as `Executor` says."""

    def __enter__(self) -> SerialExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def run(
        self,
        tasks: Sequence[TrainTask],
        context: TrainingContext,
        *,
        on_event: Callable[[TrainTask, TrainingEvent], None],
        stop: Callable[[], bool],
    ) -> Iterator[tuple[TrainTask, TrainResult]]:
        trainer = CandidateTrainer(context, stop)
        for task in tasks:
            if stop():
                raise Stopped
            with using_threads(context.threads):
                result = trainer.train(task, partial(on_event, task))
            yield task, result
