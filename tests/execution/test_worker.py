"""A worker sends back what a training gives, raises and logs, in a form that can be sent."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from deepreduce.errors import CheckpointError, RunError, UserError
from deepreduce.execution import worker as subject
from deepreduce.execution.task import TrainResult
from deepreduce.training import Started, Stopped
from deepreduce.utils.child_process import ChildProcess
from tests.helpers.execution import alone

RESULT = TrainResult(val_accuracy=0.5)


class Sent:
    """A connection that keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(pickle.loads(pickle.dumps(message)))


class StubTrainer:
    """Raises an error, or gives a result."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def train(self, task: Any, on_event: Any) -> Any:
        if self._error is not None:
            raise self._error
        on_event(Started(epochs=()))
        return RESULT


def train(trainer: StubTrainer) -> list[Any]:
    sent = Sent()
    sent.send(subject._train(trainer, alone(), sent.send))  # type: ignore[arg-type]
    return sent.messages


def test_the_events_of_a_training_come_before_its_result() -> None:
    assert train(StubTrainer()) == [Started(epochs=()), RESULT]


@pytest.mark.parametrize("kind", [Stopped, UserError, CheckpointError, RunError])
def test_an_error_comes_as_itself_without_what_caused_it(kind: type[Exception]) -> None:
    error = kind("give another batch size")
    error.__cause__ = RuntimeError("what can't be sent", lambda: None)
    (message,) = train(StubTrainer(error))
    assert type(message) is kind and str(message) == "give another batch size"


def test_a_mistake_of_ours_is_an_error_of_the_run_and_its_traceback_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (message,) = train(StubTrainer(ZeroDivisionError("division by zero")))
    assert type(message) is RunError
    assert str(message) == "cull could not be trained: ZeroDivisionError: division by zero"
    assert "Traceback (most recent call last)" in caplog.text and "ZeroDivisionError" in caplog.text


def test_what_is_logged_is_sent_with_its_traceback_and_without_its_arguments() -> None:
    logger, sent = logging.getLogger("deepreduce"), Sent()
    before = logger.handlers, logger.propagate, logger.level
    try:
        subject._log_to(sent)  # type: ignore[arg-type]
        logging.getLogger("deepreduce.training").info("%s of %s", "one", lambda: None)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            logging.getLogger("deepreduce.training").exception("it failed")
    finally:
        logger.handlers, logger.propagate, level = before
        logger.setLevel(level)
    told, failed = sent.messages
    assert (told.name, told.levelname) == ("deepreduce.training", "INFO")
    assert told.getMessage().startswith("one of <function")
    assert logging.Formatter().format(failed).count("Traceback (most recent call last)") == 1


class Arriving(Sent):
    """A connection from which messages, or the errors that unpickling raises, come one after the other."""

    def __init__(self, *messages: Any) -> None:
        super().__init__()
        self._coming = iter(messages)

    def recv(self) -> Any:
        message = next(self._coming, EOFError())
        if isinstance(message, Exception):
            raise message
        return message


def test_tasks_are_trained_one_after_the_other_and_late_requests_to_stop_passed_over() -> None:
    coming = Arriving(None, alone("one"), None, None, alone("two"))
    with pytest.raises(EOFError):
        subject._serve(StubTrainer(), coming)  # type: ignore[arg-type]
    assert coming.messages == [Started(epochs=()), RESULT] * 2


def test_a_task_that_can_not_be_loaded_is_named_and_the_next_one_trained() -> None:
    coming = Arriving(AttributeError("Can't get attribute 'Mine' on <module '__main__'>"), alone())
    with pytest.raises(EOFError):
        subject._serve(StubTrainer(), coming)  # type: ignore[arg-type]
    error, *others = coming.messages
    assert type(error) is UserError and others == [Started(epochs=()), RESULT]
    assert "can't load a task (Can't get attribute 'Mine'" in str(error) and "side_by_side to 1" in str(error)


def test_memory_is_released_where_the_system_knows_how(monkeypatch: pytest.MonkeyPatch) -> None:
    subject.release_memory()

    class Without:
        def __init__(self, name: None) -> None:
            pass

    monkeypatch.setattr(subject.ctypes, "CDLL", Without)
    subject.release_memory()


# -- the process itself ---------------------------------------------------------------------------------------


@contextmanager
def worker() -> Iterator[Connection]:
    process = ChildProcess("deepreduce.execution.worker", environment={"OMP_NUM_THREADS": "1"})
    connection = Connection(process.channel.detach())
    try:
        yield connection
    finally:
        connection.close()
        process.end()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_a_context_that_can_not_be_loaded_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "context").write_bytes(b"no context")
    with worker() as connection:
        connection.send((str(tmp_path / "context"), False))
        assert connection.recv().startswith("a worker can't load what it needs: ")
        with pytest.raises(EOFError):
            connection.recv()
