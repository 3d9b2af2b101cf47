"""Networks trained side by side: processes of one thread each, fed by the process that runs the whole.

On a CPU, two processes of one thread train more images per second together than one process of two threads. The
processes are started anew, not forked: torch's threads do not survive a fork, and a user's script is not run again.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from deepreduce.errors import DeepReduceError, RunError
from deepreduce.execution.trainer import CandidateTrainer, SharedWeightsTask, TrainTask
from deepreduce.training import Stopped, TrainingEvent
from deepreduce.utils.files import TEMPORARY

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.2  # seconds between looks at a request to stop
_STOPS = (signal.SIGINT, signal.SIGTERM)

J = TypeVar("J", TrainTask, SharedWeightsTask)
OnEvent = Callable[[TrainingEvent], None]


class ExecutorError(Exception):
    """The work can't be handed to other processes; it can still be done in this one."""


@dataclass(kw_only=True, eq=False)
class _Member:
    """A process of the crew, and the job it is at."""

    process: subprocess.Popen[bytes]
    connection: Connection
    job: TrainTask | SharedWeightsTask | None = None
    on_event: OnEvent | None = None


class ProcessExecutor:
    """`size` processes of one thread that train the networks of a workshop. Use as a context manager.

    Raises `ExecutorError` on entering where the workshop can't be handed over, as with classes of a script that other
    processes can't import.
    """

    def __init__(self, workshop: CandidateTrainer, *, size: int, scratch: Path) -> None:
        self._workshop, self._size, self._scratch = workshop, size, scratch
        self._members: list[_Member] = []

    def __enter__(self) -> ProcessExecutor:
        if os.name != "posix":
            raise ExecutorError("side by side works on Linux and macOS only")
        give_memory_back()  # what the teacher's training took, the others may have
        file = None
        try:
            descriptor, name = tempfile.mkstemp(dir=self._scratch, prefix="crew-", suffix=TEMPORARY)
            os.close(descriptor)
            file = Path(name)
            # of tensors in a file that they map, the processes share one copy
            torch.save(replace(self._workshop, stop=_never), file)
            self._members = [_start_member() for _ in range(self._size)]
            for member in self._members:
                member.connection.send((str(file), torch.are_deterministic_algorithms_enabled()))
            for member in self._members:
                if not member.connection.recv():
                    raise ExecutorError("another process can't import its classes")
        except (pickle.PicklingError, AttributeError, TypeError, EOFError, OSError, RuntimeError) as error:
            self._end()
            raise ExecutorError(str(error).strip().partition("\n")[0] or type(error).__name__) from error
        except BaseException:
            self._end()
            raise
        finally:
            if file is not None:
                file.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, jobs: Sequence[J], told: Callable[[J], OnEvent]) -> Iterator[tuple[J, Any]]:
        """Every job with what `run_in` makes of it, as they end; none may start from another one of `jobs`.

        Raises as `Workshop.run` does, and `RunError` where a process dies; at a stop every process saves what it has
        before `Stopped` is raised.
        """
        waiting, left = list(jobs), len(jobs)
        stopping = False
        while left:
            stopping = stopping or self._workshop.stop()
            if stopping:
                self._ask_to_stop()
            else:
                self._hand_out(waiting, told)
            busy = [m.connection for m in self._members if m.job is not None]
            if stopping and not busy:
                raise Stopped
            for connection in wait(busy, timeout=_LOOK_EVERY):
                member = next(m for m in self._members if m.connection is connection)
                ended = self._hear(member)
                if ended is not None:
                    left -= 1
                    yield ended

    def _hand_out(self, waiting: list[J], told: Callable[[J], OnEvent]) -> None:
        for member in (m for m in self._members if m.job is None):
            if not waiting or self._workshop.stop():
                return  # the others are to save what they have first
            job = waiting.pop(0)
            member.job, member.on_event = job, told(job)
            try:
                member.connection.send(job)
            except OSError:  # it died while it waited
                raise _ended(member, job.name) from None

    def _ask_to_stop(self) -> None:
        for member in self._members:
            if member.job is not None:
                member.process.send_signal(signal.SIGUSR1)

    def _hear(self, member: _Member) -> tuple[Any, Any] | None:
        """Take one message; the job and its outcome where that is what it says."""
        job = member.job
        assert job is not None
        try:
            kind, value = member.connection.recv()
        except (EOFError, OSError):
            raise _ended(member, job.name) from None
        if kind == "event":
            assert member.on_event is not None
            member.on_event(value)
        elif kind == "log":
            logging.getLogger(value.name).handle(value)
        elif kind == "stopped":
            member.job = None
        elif kind == "error":
            raise value
        else:
            member.job = None
            return job, value
        return None

    def _end(self) -> None:
        for member in self._members:
            with contextlib.suppress(OSError):
                member.connection.close()
            member.process.kill()
            member.process.wait()
        self._members = []


def _ended(member: _Member, name: str) -> RunError:
    return RunError(
        f"{name}: the process that trained it was ended ({_told(member.process.wait())}); lower side_by_side, or"
        " training.batch_size, if memory ran out"
    )


def give_memory_back() -> None:
    """Let the system have what this process freed: glibc keeps it for the process's own next use otherwise."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


# -- in the other process -------------------------------------------------------------------------------------


def _start_member() -> _Member:
    ours, theirs = socket.socketpair()
    with theirs:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # a terminal sends its signals to all; the new process inherits the mask, and only this one decides
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(theirs.fileno()), str(os.getpid()), repr(sys.path)],
                pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _Member(process=process, connection=Connection(ours.detach()))


_COMMAND = "import sys; sys.path[:] = eval(sys.argv[3]); from deepreduce.execution.processes import work; work()"


def work() -> None:
    """What a process of the crew does: train what it is sent until the connection closes."""
    connection, parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    _die_with(parent)
    asked = _Asked(parent)
    torch.set_num_threads(1)
    file, deterministic = connection.recv()
    torch.use_deterministic_algorithms(deterministic)
    try:
        workshop: CandidateTrainer = torch.load(file, mmap=True, weights_only=False)
    except Exception:  # whatever importing a user's class may raise
        connection.send(False)
        return
    workshop = replace(workshop, stop=asked)
    _log_to(connection)
    connection.send(True)
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_answer(workshop, connection.recv(), connection))


def _answer(
    workshop: CandidateTrainer, job: TrainTask | SharedWeightsTask, connection: Connection
) -> tuple[str, Any]:
    give_memory_back()
    try:
        return "done", job.run_in(workshop, lambda event: connection.send(("event", event)))
    except Stopped:
        return "stopped", None
    except DeepReduceError as error:
        return "error", type(error)(str(error))
    except Exception as error:
        log.exception("%s could not be trained", job.name)
        return "error", RunError(f"{job.name} could not be trained: {type(error).__name__}: {error}")


class _Asked:
    """Whether the process that runs the whole asked this one to stop; its end ends this one too."""

    def __init__(self, parent: int) -> None:
        self._parent, self._asked = parent, False
        signal.signal(signal.SIGUSR1, self._note)

    def __call__(self) -> bool:
        if os.getppid() != self._parent:
            signal.raise_signal(signal.SIGKILL)
        return self._asked

    def _note(self, *_: object) -> None:
        self._asked = True


def _die_with(parent: int) -> None:
    """Have Linux end this process when its parent ends, at whatever it is; elsewhere the next step finds out."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        signal.raise_signal(signal.SIGKILL)


_PR_SET_PDEATHSIG = 1


def _log_to(connection: Connection) -> None:
    class Sender(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args = self.format(record), None
            record.exc_info = record.exc_text = None  # the message holds it now
            connection.send(("log", record))

    logger = logging.getLogger("deepreduce")
    logger.handlers, logger.propagate = [Sender()], False
    logger.setLevel(logging.INFO)


def _never() -> bool:
    return False


def _told(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
