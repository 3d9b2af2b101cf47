"""Run several tasks at a time, in worker processes.

On a CPU, two processes of one thread train more images per second together than one process of two threads. The
processes are started, not forked: torch's threads do not survive a fork, and a user's script is not run again.
They are no pool of loky's, whose workers go on training, and writing snapshots, when the process that started them is
killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import torch

from deepreduce.errors import RunError, UserError
from deepreduce.execution.serial import SerialExecutor
from deepreduce.execution.task import TrainResult, TrainTask
from deepreduce.execution.trainer import TrainingContext
from deepreduce.execution.worker import release_memory
from deepreduce.training import Stopped, TrainingEvent
from deepreduce.utils.child_process import ChildProcess
from deepreduce.utils.files import StagedFile

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.2  # seconds between looks at a request to stop

OnEvent = Callable[[TrainTask, TrainingEvent], None]


class _HandOverError(Exception):
    """The context can't be handed to another process."""


_OBSTACLES = (_HandOverError, pickle.PicklingError, AttributeError, TypeError, EOFError, OSError, RuntimeError)
"""Errors of a context that can't be pickled, or of a process that does not come up."""


class _Worker:
    """A worker process, and the task that it is training."""

    def __init__(self, *, threads: int) -> None:
        count = str(threads)
        self._process = ChildProcess(
            "deepreduce.execution.worker", environment={"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        )
        self.connection = Connection(self._process.channel.detach())
        self.task: TrainTask | None = None

    def begin(self, task: TrainTask) -> None:
        """Send it a task. Raises `RunError` where the process is gone, `UserError` for a task that can't be sent."""
        self.task = task
        try:
            self.connection.send(task)
        except OSError:
            raise self._gone() from None
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"{task.name} can't be sent to a worker ({error}); define its callbacks in a module, or set"
                " side_by_side to 1"
            ) from error

    def ask_to_stop(self) -> None:
        """Have it save the snapshot of its training, if it has one."""
        if self.task is not None:
            with contextlib.suppress(OSError):  # that it is gone, `receive` finds out
                self.connection.send(None)

    def receive(self, on_event: OnEvent) -> tuple[TrainTask, TrainResult] | None:
        """Take one message; return the task with its result where that is what the message holds.

        Raises `RunError` where the process is gone, and what the training raised.
        """
        assert self.task is not None
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        match message:
            case logging.LogRecord():
                logging.getLogger(message.name).handle(message)
            case TrainResult():
                task, self.task = self.task, None
                return task, message
            case Stopped():
                self.task = None
            case Exception():
                raise message
            case event:
                on_event(self.task, event)
        return None

    def _gone(self) -> RunError:
        assert self.task is not None
        return RunError(
            f"{self.task.name}: the process that trained it {self._process.describe_end()}; lower side_by_side, or"
            " training.batch_size, if memory ran out"
        )

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()
        self._process.end()


class ProcessExecutor:
    """Runs tasks in `workers` processes at a time, as `Executor` says.

    The processes are started for the first tasks of a context, and hold it for all others. A task alone is trained in
    this process. So are all where a context can't be handed over, as with classes of a script that other processes
    can't import; a warning says so.
    """

    def __init__(self, *, workers: int) -> None:
        self._count = workers
        self._workers: list[_Worker] = []
        self._context: TrainingContext | None = None
        self._serial = SerialExecutor()

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(
        self,
        tasks: Sequence[TrainTask],
        context: TrainingContext,
        *,
        on_event: OnEvent,
        stop: Callable[[], bool],
    ) -> Iterator[tuple[TrainTask, TrainResult]]:
        if len(tasks) > 1 and self._context is not context:
            self._end()
            self._start(context)
        if len(tasks) == 1 or not self._workers:
            yield from self._serial.run(tasks, context, on_event=on_event, stop=stop)
            return
        try:
            yield from self._run_in_workers(list(tasks), on_event=on_event, stop=stop)
        except BaseException:  # nobody waits for what the other workers are doing
            self._end()
            raise

    def _run_in_workers(
        self, waiting: list[TrainTask], *, on_event: OnEvent, stop: Callable[[], bool]
    ) -> Iterator[tuple[TrainTask, TrainResult]]:
        left, stopping = len(waiting), False
        while left:
            for worker in self._workers:
                stopping = stopping or self._stop_if_asked(stop)
                if waiting and worker.task is None and not stopping:
                    worker.begin(waiting.pop(0))
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                raise Stopped
            ready = wait([worker.connection for worker in busy], timeout=_LOOK_EVERY)
            for worker in (worker for worker in busy if worker.connection in ready):
                ended = worker.receive(on_event)
                if ended is not None:
                    left -= 1
                    yield ended

    def _stop_if_asked(self, stop: Callable[[], bool]) -> bool:
        """Ask all workers to stop if `stop` says so; return what it says."""
        asked = stop()
        if asked:
            for worker in self._workers:
                worker.ask_to_stop()
        return asked

    def _start(self, context: TrainingContext) -> None:
        """Start the workers and hand them the context; where that can't be done, log why and start none."""
        self._context = context
        release_memory()  # what other trainings in this process took, the workers may have
        try:
            if os.name != "posix":
                raise _HandOverError("workers need Linux or macOS")
            with _file_of(context) as file:
                for _ in range(self._count):
                    self._workers.append(_Worker(threads=context.threads))
                for worker in self._workers:
                    worker.connection.send((str(file), torch.are_deterministic_algorithms_enabled()))
                for worker in self._workers:
                    obstacle = worker.connection.recv()
                    if obstacle is not None:
                        raise _HandOverError(obstacle)
        except _OBSTACLES as error:
            self._end_workers()
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            log.warning("networks are trained one after the other: %s", reason)
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self._context = None
        self._end_workers()

    def _end_workers(self) -> None:
        while self._workers:
            self._workers.pop().end()


@contextlib.contextmanager
def _file_of(context: TrainingContext) -> Iterator[Path]:
    """Write the context to a file of this user alone; processes that map the file share one copy of its tensors."""
    file = StagedFile(context.root, mode=0o600)
    try:
        torch.save(context, cast(IO[bytes], file))
        file.sync()
        yield file.path
    finally:
        file.discard()
