"""Who has the networks of a run trained, here or by a crew, and tells those who watch."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from deepreduce.config.build import using_threads
from deepreduce.errors import CheckpointError
from deepreduce.execution.processes import ExecutorError, ProcessExecutor
from deepreduce.execution.trainer import CandidateTrainer, SharedWeightsTask, TrainResult, TrainTask
from deepreduce.observers import ObservedNetwork, Observers
from deepreduce.plan import TEACHER_ID
from deepreduce.training import EpochRecord, Monitor, Stopped
from deepreduce.training.autotune import ExecutionPlan

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
J = TypeVar("J", TrainTask, SharedWeightsTask)

TEACHER_FOLDER = "teacher"


class Runner:
    """Has jobs done in a workshop: several side by side where that is faster. Use as a context manager.

    `workshop` may be exchanged until the first students are trained. `root` is the run's folder. Observers hear
    of `count` networks, of which `started` have begun, and of `total` multiply-accumulates: `expect` says what
    is still to come, as a run finds out.
    """

    def __init__(
        self,
        workshop: CandidateTrainer,
        *,
        arrangement: ExecutionPlan,
        observers: Observers,
        root: Path,
    ) -> None:
        self.workshop = workshop
        self.count, self.total = 0, 0.0
        self._arrangement, self._observers, self._root = arrangement, observers, root
        self.started, self._begun = 0, 0.0
        self._crew: ProcessExecutor | None = None
        self._alone = arrangement.side_by_side == 1

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._crew is not None:
            self._crew.__exit__(kind, error, trace)

    def expect(self, count: int, work: float) -> None:
        """So many networks are still to come, and so much work."""
        self.count, self.total = self.started + count, self._begun + work

    def teacher(self, job: TrainTask, work: float) -> TrainResult:
        """Have one network trained, with the threads of the teacher."""
        outcome: TrainResult = self._done(job, work) or self._train_here(job, work)
        return outcome

    def students(self, jobs: Mapping[K, J], works: Mapping[K, float]) -> Iterator[tuple[K, Any]]:
        """Every key with what its job's `run_in` gives, as they end; `works` are in multiply-accumulates.

        None of the jobs may start from another one of them. Raises as `Workshop.run` does.
        """
        todo = {}
        for key, job in jobs.items():
            known = self._done(job, works[key])
            if known is None:
                todo[key] = job
            else:
                yield key, known
        yield from self._beside(todo, works)

    def _beside(self, todo: Mapping[K, J], works: Mapping[K, float]) -> Iterator[tuple[K, Any]]:
        """Side by side where that is faster and possible, else one after the other."""
        keys = {job.folder.path: key for key, job in todo.items()}
        left = list(todo.values())
        crew = self._assembled() if len(left) > 1 else None
        if crew is not None:
            for job, outcome in crew.run(left, lambda job: self._monitor(job, works[keys[job.folder.path]])):
                self._end(job, outcome)
                yield keys[job.folder.path], outcome
            return
        with using_threads(self._arrangement.student_threads):
            for job in left:
                key = keys[job.folder.path]
                yield key, self._train_here(job, works[key])

    def _assembled(self) -> ProcessExecutor | None:
        """The crew, assembled when it is first wanted; None where there can't be one."""
        if self._crew is None and not self._alone:
            crew = ProcessExecutor(self.workshop, size=self._arrangement.side_by_side, scratch=self._root)
            try:
                self._crew = crew.__enter__()
            except ExecutorError as error:
                log.warning("networks are trained one after the other: %s", error)
                self._alone = True
        return self._crew

    def _done(self, job: TrainTask | SharedWeightsTask, work: float) -> Any:
        """What became of a job that is done already; None of another one."""
        known = job.done_in(self.workshop)
        if known is not None:
            self._monitor(job, work).on_start(_history(job) if isinstance(job, TrainTask) else ())
            self._end(job, known, was_done=True)
        return known

    def _train_here(self, job: J, work: float) -> Any:
        outcome = job.run_in(self.workshop, self._monitor(job, work))
        self._end(job, outcome)
        return outcome

    def _monitor(self, job: TrainTask | SharedWeightsTask, work: float) -> Monitor:
        """Count the job as begun; return what passes the events of its training on to the observers."""
        if self.workshop.stop():
            raise Stopped
        self.started += 1
        self._begun += work
        network, number = self._observed(job), self.started

        def start(epochs: Sequence[EpochRecord]) -> None:
            self._observers.network_started(
                network, number=number, count=self.count, work=work, total=self.total, epochs=epochs
            )

        return Monitor(
            on_start=start,
            on_step=partial(self._observers.step_ended, network),
            on_epoch=partial(self._observers.epoch_ended, network),
        )

    def _end(self, job: TrainTask | SharedWeightsTask, outcome: Any, *, was_done: bool = False) -> None:
        results = (outcome,) if isinstance(job, TrainTask) else tuple(outcome.values())
        self._observers.network_ended(self._observed(job), results, was_done=was_done)

    def _observed(self, job: TrainTask | SharedWeightsTask) -> ObservedNetwork:
        folder = job.folder.path.relative_to(self._root).as_posix()
        plan_id = job.plan.plan_id if isinstance(job, TrainTask) else None
        return ObservedNetwork(
            label=job.name, folder=folder, plan_id=TEACHER_ID if folder == TEACHER_FOLDER else plan_id
        )


def _history(job: TrainTask) -> tuple[EpochRecord, ...]:
    """The epochs of a network that is done, none where their file can't be read: no result depends on it."""
    try:
        return job.folder.history()
    except CheckpointError as error:
        log.warning("%s", error)
        return ()
