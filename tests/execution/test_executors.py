"""Every executor gives the same numbers, also after a stop or a kill, and clear errors, and leaves nothing behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepreduce.errors import CheckpointError, RunError
from deepreduce.execution.anneal import Anneal
from deepreduce.execution.executor import Executor, open_executor
from deepreduce.execution.processes import ProcessExecutor
from deepreduce.execution.serial import SerialExecutor
from deepreduce.execution.task import TrainResult, TrainTask, WarmStart
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.plan import ReductionPlan
from deepreduce.training import EpochEnded, Started, Stepped, Stopped, TrainingEvent
from tests.helpers import REPOSITORY
from tests.helpers.callbacks import AverageWeights
from tests.helpers.execution import HOPELESS, alone, folder_of, names_in, plain, same, taught, weights_of
from tests.helpers.processes import all_end, children_running
from tests.helpers.training import RECIPE

BACKENDS: dict[str, Callable[[], Executor]] = {
    "serial": SerialExecutor,
    "processes": partial(ProcessExecutor, workers=2),
}
WORKER = "deepreduce.execution.worker"
LONGER = replace(RECIPE, epochs=40)
"""So long that it can be interrupted, and so short that it can be trained to its end."""


@dataclass
class Heard:
    """The events of each task."""

    events: dict[str, list[TrainingEvent]] = field(default_factory=dict)

    def __call__(self, task: TrainTask, event: TrainingEvent) -> None:
        if isinstance(event, EpochEnded):
            event = EpochEnded(record=replace(event.record, seconds=0.0))
        self.events.setdefault(task.name, []).append(event)

    def of(self, kind: type[Any]) -> dict[str, list[Any]]:
        """The events of that kind, of the tasks that have had one."""
        found = {name: [e for e in events if isinstance(e, kind)] for name, events in self.events.items()}
        return {name: events for name, events in found.items() if events}


def tasks_in(folder: str, **options: Any) -> list[TrainTask]:
    """Some tasks, with these options."""
    return [
        alone(f"{folder}/one", callbacks=(Anneal(0.5),), **options),
        alone(f"{folder}/other", site=1, statistics_batches=2, first_epoch=1, **options),
        alone(f"{folder}/third", site=1, **options),
    ]


def run(
    executor: Executor,
    tasks: Sequence[TrainTask],
    context: TrainingContext,
    *,
    on_event: Callable[[TrainTask, TrainingEvent], None] = lambda task, event: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[TrainResult]:
    """The results in the order of the tasks."""
    found = dict(executor.run(tasks, context, on_event=on_event, stop=stop))
    assert len(found) == len(tasks)
    return [plain(found[task]) for task in tasks]


@dataclass(frozen=True)
class Reference:
    """What a trainer makes of tasks, without any executor."""

    context: TrainingContext
    tasks: list[TrainTask]
    results: list[TrainResult]
    heard: Heard

    def is_met_by(self, results: list[TrainResult], tasks: list[TrainTask], context: Any) -> bool:
        return results == self.results and all(
            same(weights_of(self.context, own), weights_of(context, other))
            for own, other in zip(self.tasks, tasks, strict=True)
        )


def reference_of(tasks: list[TrainTask], root: Path) -> Reference:
    context, heard = taught(root, callbacks=(AverageWeights(),)), Heard()
    trainer = CandidateTrainer(context)
    return Reference(context, tasks, [plain(trainer.train(task, partial(heard, task))) for task in tasks], heard)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference_of(tasks_in("tasks"), tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference_of(tasks_in("tasks", recipe=LONGER), tmp_path_factory.mktemp("longer"))


@pytest.fixture(
    scope="module",
    params=["serial", pytest.param("processes", marks=pytest.mark.skipif(os.name != "posix", reason="needs POSIX"))],
)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def executor(backend: str) -> Iterator[Executor]:
    """One for all tests, since workers take seconds to start."""
    with BACKENDS[backend]() as started:
        yield started
    assert not children_running(WORKER)


@pytest.fixture(scope="module")
def context(backend: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingContext:
    """One for all tests, each of which has tasks in folders of its own."""
    return taught(tmp_path_factory.mktemp(backend), callbacks=(AverageWeights(),))


# -- what comes out -------------------------------------------------------------------------------------------


def test_results_files_and_events_are_those_of_a_training_in_this_process(
    executor: Executor, context: TrainingContext, reference: Reference
) -> None:
    tasks, heard = tasks_in("tasks"), Heard()
    assert reference.is_met_by(run(executor, tasks, context, on_event=heard), tasks, context)
    assert heard.events == reference.heard.events
    for task in tasks:
        assert names_in(context, task.folder) == names_in(reference.context, task.folder)
    logits = [(each.root / "answers.bin").read_bytes() for each in (context, reference.context)]
    assert logits[0] == logits[1]
    assert not list(context.root.glob("context-*"))  # what workers were handed


def test_no_tasks_give_no_results(executor: Executor, context: TrainingContext) -> None:
    assert run(executor, [], context) == []


def test_a_task_that_fails_is_a_result_and_the_others_are_trained(
    executor: Executor, context: TrainingContext, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [alone("failing/hopeless", recipe=HOPELESS), *tasks_in("failing")]
    with caplog.at_level(logging.WARNING, "deepreduce"):
        failed, *others = run(executor, tasks, context)
    assert "not finite" in (failed.failure or "") and failed.relu_count > 0
    assert reference.is_met_by(others, tasks[1:], context)
    # what a training logs, wherever it runs, is logged here by the logger that it was logged to
    logged = {(r.name, r.levelname) for r in caplog.records if "not finite" in r.getMessage()}
    assert logged == {("deepreduce.training.loop", "WARNING"), ("deepreduce.execution.trainer", "WARNING")}


# -- stops and kills ------------------------------------------------------------------------------------------


def test_a_stop_saves_all_trainings_and_they_end_like_undisturbed_ones(
    executor: Executor, context: TrainingContext, longer: Reference
) -> None:
    tasks, heard = tasks_in("stopped", recipe=LONGER), Heard()

    with pytest.raises(Stopped):
        run(executor, tasks, context, on_event=heard, stop=lambda: bool(heard.of(Stepped)))
    assert tasks[2].name not in heard.events
    for name in heard.of(Started):
        assert names_in(context, name) == ["training.safetensors"]
    epochs = {name: folder_of(context, name).snapshot().values["epoch"] for name in heard.of(Stepped)}  # type: ignore
    assert epochs and all(0 < epoch < LONGER.epochs for epoch in epochs.values())
    resumed = Heard()
    assert longer.is_met_by(run(executor, tasks, context, on_event=resumed), tasks, context)
    assert all(len(resumed.of(Started)[name][0].epochs) == epoch for name, epoch in epochs.items())


def test_a_stop_before_the_first_task_trains_none(executor: Executor, context: TrainingContext) -> None:
    heard = Heard()
    with pytest.raises(Stopped):
        run(executor, tasks_in("never"), context, on_event=heard, stop=lambda: True)
    assert not heard.events and not (context.root / "never").exists()


PARENT = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from deepreduce.training import Stepped
from tests.execution.test_executors import BACKENDS, LONGER, WORKER, run, tasks_in
from tests.helpers.callbacks import AverageWeights
from tests.helpers.execution import taught
from tests.helpers.processes import children_running

def kill(task, event):
    if isinstance(event, Stepped):
        print(json.dumps(sorted(children_running(WORKER))), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

with BACKENDS[sys.argv[1]]() as executor:
    context = taught(Path(sys.argv[2]), callbacks=(AverageWeights(),), checkpoint_seconds=0.0)
    run(executor, tasks_in("killed", recipe=LONGER), context, on_event=kill)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_that_is_killed_leaves_no_process_and_resumes(
    backend: str, executor: Executor, context: TrainingContext, longer: Reference
) -> None:
    command = [sys.executable, "-c", PARENT, backend, str(context.root)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    workers = json.loads(parent.stdout)
    assert len(workers) == (2 if backend == "processes" else 0) and all_end(workers, seconds=10)
    assert list((context.root / "killed").rglob("training.safetensors"))
    tasks = tasks_in("killed", recipe=LONGER)
    assert longer.is_met_by(run(executor, tasks, context), tasks, context)


# -- what goes wrong (last, since workers start again afterwards) -----------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", ["processes"], indirect=True)
def test_a_worker_that_is_killed_is_an_error_within_seconds_and_the_tasks_resume(
    executor: Executor, context: TrainingContext, longer: Reference
) -> None:
    tasks, killed_at = tasks_in("worker", recipe=LONGER), 0.0

    def kill(task: TrainTask, event: TrainingEvent) -> None:
        nonlocal killed_at
        if isinstance(event, Stepped) and not killed_at:
            killed_at = time.monotonic()
            for worker in children_running(WORKER):
                os.kill(worker, signal.SIGKILL)

    said = (
        r"worker/\w+: the process that trained it was killed by SIGKILL; lower side_by_side, or training.batch_size"
    )
    with pytest.raises(RunError, match=said):
        run(executor, tasks, context, on_event=kill)
    assert time.monotonic() - killed_at < 10
    assert not children_running(WORKER)
    assert longer.is_met_by(run(executor, tasks, context), tasks, context)


def test_an_error_of_a_training_keeps_its_class_and_text(executor: Executor, context: TrainingContext) -> None:
    start = WarmStart(folder="nowhere", plan=ReductionPlan())
    with pytest.raises(CheckpointError, match=r"nowhere/model\.safetensors can't be read") as caught:
        run(executor, [alone("error/one", start=start), alone("error/two", start=start)], context)
    assert type(caught.value) is CheckpointError


def test_a_run_opens_the_executor_for_its_number_of_workers() -> None:
    with open_executor(workers=1) as one, open_executor(workers=2) as several:
        assert (type(one), type(several)) == (SerialExecutor, ProcessExecutor)
