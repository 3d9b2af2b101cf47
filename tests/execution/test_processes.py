"""Workers are started when they are needed, and a context that can't be handed to them is used here."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from deepreduce.errors import RunError, UserError
from deepreduce.execution import processes as subject
from deepreduce.execution.processes import ProcessExecutor
from deepreduce.execution.task import TrainTask
from deepreduce.execution.trainer import TrainingContext
from deepreduce.training import Teacher
from deepreduce.utils.child_process import ChildProcess
from deepreduce.utils.files import is_partial_name
from tests.execution.test_executors import WORKER, run
from tests.helpers.callbacks import AverageWeights
from tests.helpers.execution import alone, names_in, untaught
from tests.helpers.processes import children_running
from tests.helpers.training import FP32

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ONE_AFTER_THE_OTHER = "networks are trained one after the other: "


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert not children_running(WORKER)


@pytest.fixture
def context(tmp_path: Path) -> TrainingContext:
    return untaught(tmp_path)


def pair(folder: str = "tasks") -> list[TrainTask]:
    return [alone(f"{folder}/one"), alone(f"{folder}/two")]


def trained_here(context: TrainingContext, caplog: pytest.LogCaptureFixture) -> str:
    """Run tasks twice, which must be trained in this process; return the one warning that says why."""
    with ProcessExecutor(workers=2) as executor:
        run(executor, pair(), context)
        run(executor, pair("others"), context)
        assert not children_running(WORKER)
    assert not [path for path in context.root.iterdir() if is_partial_name(path.name)]
    (warning,) = (r.getMessage() for r in caplog.records if ONE_AFTER_THE_OTHER in r.getMessage())
    return warning.removeprefix(ONE_AFTER_THE_OTHER)


class Local:
    """Makes modules of a class that no other process knows."""

    def __new__(cls) -> Any:
        class Hidden(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.new_zeros(len(x), 3)

        return Hidden()


def test_a_class_that_can_not_be_pickled_is_trained_here_and_says_so_once(
    context: TrainingContext, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Teacher(Local(), precision=FP32)
    assert "Local.__new__.<locals>.Hidden" in trained_here(replace(context, teacher=teacher), caplog)


@pytest.mark.slow
def test_a_class_that_only_this_process_knows_is_trained_here(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Local()
    type(teacher).__qualname__, type(teacher).__module__ = "Hidden", __name__
    monkeypatch.setattr(sys.modules[__name__], "Hidden", type(teacher), raising=False)
    said = trained_here(replace(context, teacher=Teacher(teacher, precision=FP32)), caplog)
    assert said.startswith("a worker can't load what it needs: ") and "Hidden" in said


def test_workers_that_do_not_come_up_are_done_without(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subject, "ChildProcess", lambda module, **_: ChildProcess("keyword"))  # which ends at once
    assert trained_here(context, caplog)


def test_where_there_is_no_room_for_the_context_it_is_used_here(
    context: TrainingContext, caplog: pytest.LogCaptureFixture
) -> None:
    assert "No such file" in trained_here(replace(context, root=context.root / "nowhere"), caplog)


def test_the_context_is_handed_over_in_a_file_of_this_user_that_the_next_run_would_clear_away(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Path] = []

    def look(**_: Any) -> None:
        seen.extend(path for path in context.root.iterdir() if is_partial_name(path.name))
        assert all(path.stat().st_mode & 0o077 == 0 for path in seen)
        raise OSError("no process can be started")

    monkeypatch.setattr(subject, "_Worker", look)
    assert trained_here(context, caplog) == "no process can be started" and len(seen) == 1


def test_a_task_alone_is_trained_here(context: TrainingContext) -> None:
    with ProcessExecutor(workers=2) as executor:
        run(executor, [alone()], context)
        assert not children_running(WORKER) and executor._context is None


@pytest.mark.slow
def test_another_context_has_other_workers_and_more_tasks_have_the_same(
    context: TrainingContext, tmp_path: Path
) -> None:
    with ProcessExecutor(workers=2) as executor:
        run(executor, pair(), context)
        first = children_running(WORKER)
        run(executor, [*pair("more"), alone("more/three")], context)
        run(executor, [alone("alone")], untaught(tmp_path / "alone"))
        assert children_running(WORKER) == first and len(first) == 2
        other = untaught(tmp_path / "other")
        run(executor, pair(), other)
        assert len(children_running(WORKER)) == 2 and not children_running(WORKER) & first
        assert "model.safetensors" in names_in(other, "tasks/one")


def test_a_task_that_can_not_be_sent_is_the_users_mistake(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ready(ProcessExecutor):
        def _start(self, context: TrainingContext) -> None:
            worker = object.__new__(subject._Worker)
            worker.task, (worker.connection, self.other) = None, Pipe()
            self._workers = [worker]

        def _end_workers(self) -> None:
            self._workers = []

    class Mine(AverageWeights):
        pass

    tasks = [alone(name, callbacks=(Mine(),)) for name in ("one", "two")]
    said = r"one can't be sent to a worker \(.*Mine'?\); define its callbacks in a module, or set side_by_side to 1"
    with pytest.raises(UserError, match=said):
        run(Ready(workers=1), tasks, context)


@pytest.mark.slow
def test_a_worker_that_dies_while_it_waits_is_named(context: TrainingContext) -> None:
    with ProcessExecutor(workers=2) as executor:
        run(executor, pair(), context)
        for idle in children_running(WORKER):
            os.kill(idle, signal.SIGKILL)
            os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)
        with pytest.raises(RunError, match=r"two/one: the process that trained it was killed by SIGKILL"):
            run(executor, pair("two"), context)
