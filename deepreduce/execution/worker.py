"""The process of one worker: python -m deepreduce.execution.worker, started by `processes`.

It is sent the file that holds the context, then one task after the other, and sends back what it logs, the events of
each training, and at last its result or why there is none. Another message during a training asks it to stop.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from deepreduce.errors import DeepReduceError, RunError, UserError
from deepreduce.execution.task import TrainTask
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.training import Stopped
from deepreduce.utils.child_process import connect_to_parent

log = logging.getLogger(__name__)


def main() -> None:
    """Train what the process that started this one sends, until the connection closes."""
    connection = Connection(connect_to_parent().detach())
    file, deterministic = connection.recv()
    torch.use_deterministic_algorithms(deterministic)
    try:
        context: TrainingContext = torch.load(file, mmap=True, weights_only=False)
    except Exception as error:  # whatever importing a user's class may raise
        connection.send(f"a worker can't load what it needs: {error}")
        return
    torch.set_num_threads(context.threads)
    _log_to(connection)
    trainer = CandidateTrainer(context, stop=connection.poll)
    connection.send(None)
    with contextlib.suppress(EOFError, OSError):
        _serve(trainer, connection)


def _serve(trainer: CandidateTrainer, connection: Connection) -> None:
    """Train the tasks that come. Raises `EOFError` or `OSError` when the connection closes."""
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            raise
        except Exception as error:  # whatever importing the class of a callback may raise
            connection.send(
                UserError(
                    f"a worker can't load a task ({error}); define its callbacks in a module that can be imported, or"
                    " set side_by_side to 1"
                )
            )
        else:
            if task is not None:  # else a request to stop which came when the training was over
                connection.send(_train(trainer, task, connection.send))


def _train(trainer: CandidateTrainer, task: TrainTask, send: Callable[[Any], None]) -> Any:
    """Return the result of the task, or the exception that its training raised, in a form that can be sent."""
    release_memory()
    try:
        return trainer.train(task, send)
    except Stopped as stopped:
        return stopped
    except DeepReduceError as error:
        return type(error)(str(error))
    except Exception as error:
        log.exception("%s could not be trained", task.name)
        return RunError(f"{task.name} could not be trained: {type(error).__name__}: {error}")


def _log_to(connection: Connection) -> None:
    """Send the log of this process to the one that started it."""

    class Sender(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args = self.format(record), None
            record.exc_info = record.exc_text = None  # the message holds it now
            connection.send(record)

    logger = logging.getLogger("deepreduce")
    logger.handlers, logger.propagate = [Sender()], False
    logger.setLevel(logging.INFO)


def release_memory() -> None:
    """Return to the system what this process freed: glibc keeps it for the process's own next use otherwise."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
