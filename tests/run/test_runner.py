"""A runner skips what is finished, executes the rest, and tells the observers of every network once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepreduce.candidate import TEACHER_ID
from deepreduce.execution.serial import SerialExecutor
from deepreduce.execution.task import TrainResult, TrainTask
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.observers import ObservedNetwork, RunObserver
from deepreduce.plan import ReductionPlan
from deepreduce.run.runner import Runner
from deepreduce.training import EpochEnded, EpochRecord, Progress, Started, Stepped, Stopped, TrainingEvent
from tests.helpers.execution import alone, student, untaught

PROGRESS = Progress(epoch=0, epochs=2, step=1, steps=4, done=0.125, train_loss=1.0, val_accuracy=None)
RECORD = EpochRecord(epoch=1, learning_rate=0.1, train_loss=1.0, val_accuracy=0.5, seconds=1.0)
RESULT = TrainResult(val_accuracy=0.5, relu_count=64)


class StubExecutor(SerialExecutor):
    """Trains nothing, and ends tasks in the opposite order."""

    def __init__(self) -> None:
        self.run_tasks: list[str] = []

    def run(
        self,
        tasks: Sequence[TrainTask],
        context: TrainingContext,
        *,
        on_event: Callable[[TrainTask, TrainingEvent], None],
        stop: Callable[[], bool],
    ) -> Iterator[tuple[TrainTask, TrainResult]]:
        self.run_tasks += [task.name for task in tasks]
        for task in tasks:
            on_event(task, Started(epochs=()))
        for task in reversed(tasks):
            if stop():
                raise Stopped
            on_event(task, Stepped(progress=PROGRESS))
            on_event(task, EpochEnded(record=RECORD))
            yield task, RESULT


class Notes(RunObserver):
    """What an observer is told, in a few words."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def network_started(
        self, network: ObservedNetwork, *, number: int, count: int, work: float, total: float,
        epochs: Sequence[EpochRecord],
    ) -> None:  # fmt: skip
        self.told.append(("started", network.folder, number, count, work, total, len(epochs)))

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        self.told.append(("step", network.folder))

    def epoch_ended(self, network: ObservedNetwork, record: EpochRecord) -> None:
        self.told.append(("epoch", network.folder))

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        self.told.append(("ended", network.folder, result.val_accuracy, was_done))


@pytest.fixture
def context(tmp_path: Path) -> TrainingContext:
    return untaught(tmp_path)


def run(
    tasks: Mapping[str, TrainTask], context: TrainingContext, *, stop: Callable[[], bool] = lambda: False
) -> tuple[list[tuple[str, TrainResult]], StubExecutor, Notes]:
    executor, notes = StubExecutor(), Notes()
    runner = Runner(executor, notes, stop=stop)
    runner.expect(len(tasks), 10.0 * len(tasks))
    return list(runner.run(tasks, dict.fromkeys(tasks, 10.0), context)), executor, notes


def test_every_network_is_told_of_with_its_number_and_yields_its_key_as_it_ends(context: TrainingContext) -> None:
    found, executor, notes = run({"a": alone("one"), "b": alone("two")}, context)
    assert found == [("b", RESULT), ("a", RESULT)]
    assert executor.run_tasks == ["one", "two"]
    assert notes.told == [
        ("started", "one", 1, 2, 10.0, 20.0, 0),
        ("started", "two", 2, 2, 10.0, 20.0, 0),
        *[("step", "two"), ("epoch", "two"), ("ended", "two", 0.5, False)],
        *[("step", "one"), ("epoch", "one"), ("ended", "one", 0.5, False)],
    ]


def test_what_is_finished_is_not_executed_and_told_with_its_history(context: TrainingContext) -> None:
    done = alone("done")
    accuracy = CandidateTrainer(context).train(done, lambda event: None).val_accuracy
    found, executor, notes = run({"a": alone("new"), "b": done}, context)
    assert [key for key, _ in found] == ["b", "a"] and executor.run_tasks == ["new"]
    assert found[0][1].val_accuracy == accuracy is not None
    assert notes.told[:2] == [
        ("started", "done", 1, 2, 10.0, 20.0, done.recipe.epochs),
        ("ended", "done", accuracy, True),
    ]


def test_what_is_expected_is_counted_from_what_has_begun(context: TrainingContext) -> None:
    notes = Notes()
    runner = Runner(StubExecutor(), notes, stop=lambda: False)
    runner.expect(5, 50.0)
    list(runner.run({0: alone("one")}, {0: 10.0}, context))
    runner.expect(1, 2.5)
    list(runner.run({0: alone("two")}, {0: 2.5}, context))
    started = [told[2:6] for told in notes.told if told[0] == "started"]
    assert started == [(1, 5, 10.0, 50.0), (2, 2, 2.5, 12.5)]


@pytest.mark.parametrize(
    ("task", "plan_id"),
    [
        (alone("teacher", plan=ReductionPlan()), TEACHER_ID),
        (alone("cull"), student("cull").plan.plan_id),
    ],
)
def test_a_network_is_named_by_its_plan(context: TrainingContext, task: TrainTask, plan_id: str) -> None:
    class Names(Notes):
        def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
            assert network == ObservedNetwork(label=task.name, folder=task.folder, plan_id=plan_id)
            self.told.append(())

    names = Names()
    list(Runner(StubExecutor(), names, stop=lambda: False).run({0: task}, {0: 1.0}, context))
    assert () in names.told


def test_a_stop_is_heard_before_what_is_finished_is_told(context: TrainingContext) -> None:
    CandidateTrainer(context).train(alone("done"), lambda event: None)
    notes = Notes()
    with pytest.raises(Stopped):
        list(Runner(StubExecutor(), notes, stop=lambda: True).run({0: alone("done")}, {0: 1.0}, context))
    assert not notes.told


def test_the_executor_is_asked_to_stop_by_the_same_word(context: TrainingContext) -> None:
    with pytest.raises(Stopped):
        run({"a": alone("one")}, context, stop=lambda: True)
