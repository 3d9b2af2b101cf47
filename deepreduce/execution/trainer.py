"""Train the student of a task in this process: from its initial weights to the files of its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepreduce.data import ImageData, Split
from deepreduce.errors import CheckpointError, NonFiniteLossError, RunError, UserError
from deepreduce.execution.task import Student, TrainResult, TrainTask
from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network, load_weights, read_plan
from deepreduce.store.description import as_written
from deepreduce.store.names import PLAN
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.store.sealed import read_run_record
from deepreduce.training import (
    AugmentationSchedule,
    CallbackFactory,
    Distillation,
    EpochRecord,
    LearnerFactory,
    Precision,
    Predictions,
    PreparedStudent,
    Snapshot,
    Teacher,
    TrainingEvent,
    TrainingSummary,
    churn,
    predict,
    recompute_statistics,
    train,
)
from deepreduce.training.callbacks import build_callbacks
from deepreduce.training.timing import EVALUATION_BATCH
from deepreduce.transforms import apply_plan, warm_start
from deepreduce.utils.seed import derived_seed

log = logging.getLogger(__name__)

# torch has no errors of its own for these
_CPU_ALLOCATOR = "DefaultCPUAllocator"
_TOO_FEW_TO_NORMALISE = "Expected more than 1 value per channel"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingContext:
    """Everything that all trainings of a run share, and that a process needs before it can train a task.

    `root` is the run's folder, `threads` the number of CPU threads: like the precision, it decides the last bits of
    what is computed. A snapshot is written every `checkpoint_seconds`. Without a `teacher`, trainings learn from the
    labels alone; all that learn from one share its `schedule` of augmented images. `teacher_test` are the teacher's
    predictions of the test images. The user's `callbacks` take part in every training but the teacher's own.
    """

    original: Network
    data: ImageData
    precision: Precision
    device: torch.device
    threads: int
    distillation: Distillation
    checkpoint_seconds: float
    root: Path
    schedule: AugmentationSchedule | None = None
    teacher: Teacher | None = None
    teacher_test: Predictions | None = None
    callbacks: tuple[CallbackFactory, ...] = ()


class _ForeignSnapshot(Exception):
    """A folder held the snapshot of another training, which is removed."""


class CandidateTrainer:
    """Trains students in this process, with the CPU threads that it has; `stop` is asked after every step."""

    def __init__(self, context: TrainingContext, stop: Callable[[], bool] = lambda: False) -> None:
        self.context, self._stop = context, stop

    def finished(self, task: TrainTask) -> TrainResult | None:
        """Return the result of the task, None unless the student's folder holds it, whole.

        A corrupt file is named in the log, and the folder cleared.
        """
        with _translate_errors(task, self.context.device):
            if task.learner is not None:
                return self._finished_learner(task.student, task.learner)
            return self._finished(task.student)

    def train(self, task: TrainTask, on_event: Callable[[TrainingEvent], None]) -> TrainResult:
        """Train the task's student, from the snapshot in its folder if there is one; return its result.

        A student whose loss is never finite gets a result that says so. Raises `Stopped` after a stop, when the
        snapshot is saved, `RunError` where the task does not fit into memory, `UserError` where a batch is too small
        for it, and `CheckpointError` where the weights to start from can't be read.
        """
        with _translate_errors(task, self.context.device):
            network = self._initial_network(task.student)
            try:
                trained, plan = self._fit(task, network, on_event)
            except NonFiniteLossError as error:
                log.warning("%s failed: %s", task.name, error)
                return self._keep_failure(network, task.student, str(error))
            except _ForeignSnapshot:
                return self.train(task, on_event)  # from the start: its folder is empty now
            if plan is not None:
                network = self._learned(task.student, plan, weights=network)
            return self._keep(network, task, trained, plan)

    def load(self, student: Student) -> Network:
        """Return the student's trained network, in evaluation mode on the device."""
        network, folder = self._reduced(student), self._folder(student.folder)
        load_weights(network.module, folder.weights(), source=folder.path)
        network.module.to(self.context.device).eval()
        return network

    def history(self, task: TrainTask) -> tuple[EpochRecord, ...]:
        """Return the epochs of a task that is finished; none where they can't be read."""
        try:
            return self._folder(task.folder).history()
        except CheckpointError as error:  # which changes no result
            log.warning("%s", error)
            return ()

    def predict_test(self, module: nn.Module) -> Predictions:
        """Return the network's predictions of the test images."""
        return self._predict(module, self.context.data.test)

    # -- networks ---------------------------------------------------------------------------------------------

    def _reduced(self, student: Student) -> Network:
        return apply_plan(self.context.original, student.plan, seed=_seed(student))

    def _initial_network(self, student: Student) -> Network:
        if student.start is None:
            return self._reduced(student)
        weights = self._folder(student.start.folder).weights()
        return warm_start(
            self.context.original, student.plan, parent=student.start.plan, weights=weights, seed=_seed(student)
        )

    # -- training ---------------------------------------------------------------------------------------------

    def _fit(
        self, task: TrainTask, network: Network, on_event: Callable[[TrainingEvent], None]
    ) -> tuple[TrainingSummary, ReductionPlan | None]:
        """Train the network; return what the training was, and the plan that it learned.

        Raises `_ForeignSnapshot` after a snapshot of another training has been removed.
        """
        context, seed = self.context, _seed(task.student)
        student = PreparedStudent(
            original=context.original,
            plan=task.student.plan,
            seed=seed,
            network=network,
            module=network.module,
            teacher=context.teacher.module if context.teacher is not None else None,
        )
        # a task without a teacher is the teacher's own
        factories = (*task.callbacks, *(context.callbacks if context.teacher is not None else ()))
        learner = task.learner.build(student) if task.learner is not None else None
        callbacks = [*([learner] if learner is not None else []), *build_callbacks(factories, student)]
        folder = NetworkFolder.open(context.root / task.folder)
        snapshot = self._snapshot(task, folder)
        try:
            summary = train(
                student.module, context.data, task.recipe, seed=task.student.seed, precision=context.precision,
                device=context.device, teacher=context.teacher,
                distillation=task.distillation or context.distillation, schedule=self._schedule(task),
                callbacks=callbacks, resume=snapshot, on_event=on_event, save=folder.save_snapshot,
                save_every=context.checkpoint_seconds, stop=self._stop,
            )  # fmt: skip
        except CheckpointError as error:
            if snapshot is None:
                raise
            log.warning("%s: %s; training %s again from the start", folder.path, error, task.name)
            folder.clear()
            raise _ForeignSnapshot from error
        return summary, None if learner is None else learner.learned_plan()

    def _learned(self, student: Student, plan: ReductionPlan, *, weights: Network) -> Network:
        """Return the network of a plan that was learned, with the weights that were trained."""
        network = apply_plan(self.context.original, plan, seed=_seed(student))
        load_weights(network.module, weights.module.state_dict(), source=self._folder(student.folder).path)
        return network

    def _schedule(self, task: TrainTask) -> AugmentationSchedule | None:
        schedule = self.context.schedule
        return replace(schedule, first=task.first_epoch) if schedule is not None else None

    def _snapshot(self, task: TrainTask, folder: NetworkFolder) -> Snapshot | None:
        try:
            return folder.snapshot()
        except CheckpointError as error:
            log.warning("%s; training %s again from the start", error, task.name)
            folder.clear()
            return None

    def _measure(self, network: Network, seconds: float) -> TrainResult:
        # in the plain layout of a network that is loaded back, so that its accuracies are those measured here
        network.module.to(memory_format=torch.contiguous_format)
        test, teacher_test = self.predict_test(network.module), self.context.teacher_test
        return _counted(
            network,
            val_accuracy=self._predict(network.module, self.context.data.val).accuracy,
            test_accuracy=test.accuracy,
            churn=churn(test, teacher_test) if teacher_test is not None else 0.0,
            train_seconds=seconds,
        )

    def _predict(self, module: nn.Module, split: Split) -> Predictions:
        return predict(module, split, batch_size=EVALUATION_BATCH, device=self.context.device)

    # -- folders ----------------------------------------------------------------------------------------------

    def _folder(self, folder: str) -> NetworkFolder:
        return NetworkFolder(path=self.context.root / folder)

    def _finished_learner(self, student: Student, learner: LearnerFactory) -> TrainResult | None:
        """Return the result of a student whose plan was learned, as its folder holds it."""
        folder = self._folder(student.folder)
        if not (folder.path / PLAN).exists():
            return None
        try:
            plan = read_plan(folder.path)
        except CheckpointError as error:
            self._clear(student, folder, error)
            return None
        result = self._finished(replace(student, plan=plan))
        if result is None or result.failure is not None:
            return result
        if not learner.accepts(result.relu_count):
            problem = f"{folder.path} holds a network of {result.relu_count:,} ReLUs, which {learner!r} did not make"
            self._clear(student, folder, CheckpointError(problem))
            return None
        return replace(result, plan=plan)

    def _finished(self, student: Student) -> TrainResult | None:
        folder = self._folder(student.folder)
        try:
            metrics = folder.finished()
            if metrics is None:
                return None
            network = self._reduced(student)
            result = _result_in(folder, metrics, network)
        except CheckpointError as error:
            return self._repaired(student, folder, error)
        try:
            if result.failure is None:
                load_weights(network.module, folder.weights(), source=folder.path)
        except CheckpointError as error:
            self._clear(student, folder, error)
            return None
        folder.check_description(self._describe(network, student), student.plan.mask_tensors())
        return result

    def _clear(self, student: Student, folder: NetworkFolder, problem: CheckpointError) -> None:
        """Clear the folder, so that the student is trained again."""
        log.warning("%s; training %s again", problem, student.name)
        folder.clear()

    def _repaired(self, student: Student, folder: NetworkFolder, problem: CheckpointError) -> TrainResult | None:
        """Measure a network again whose metrics are corrupt; return None where it has to be trained again."""
        try:
            result = self._measured_again(student, folder)
        except CheckpointError:
            self._clear(student, folder, problem)
            return None
        log.warning("%s; measuring %s again, with its weights", problem, student.name)
        return result

    def _measured_again(self, student: Student, folder: NetworkFolder) -> TrainResult:
        """Measure a network whose metrics are corrupt, and write them again; its weights are those it ended with.

        What is lost is the training time but for what the history says. Raises `CheckpointError` where the weights,
        the history or the plan are not as they were written.
        """
        network, weights = self._reduced(student), folder.whole_weights()
        described = read_run_record(folder.path / PLAN)
        if described != as_written(self._describe(network, student)):
            raise CheckpointError(f"{folder.path / PLAN} is of another network")
        load_weights(network.module, weights, source=folder.path)
        network.module.to(self.context.device).eval()
        epochs = folder.whole_history()
        result = self._measure(network, epochs[-1].seconds if epochs else 0.0)
        folder.replace_metrics(result.to_json())
        return result

    def _keep(
        self, network: Network, task: TrainTask, trained: TrainingSummary, plan: ReductionPlan | None
    ) -> TrainResult:
        """Measure the trained network, write its files and return its result.

        `plan` is the one that was learned, None for the student's own.
        """
        context, student = self.context, task.student
        if plan is not None:
            student = replace(student, plan=plan)
        network.module.to(context.device)  # a callback may have trained another module in its place
        if student.statistics_batches:
            recompute_statistics(
                network.module, context.data, batches=student.statistics_batches, batch_size=task.recipe.batch_size,
                seed=derived_seed(student.seed, "statistics"), precision=context.precision, device=context.device,
            )  # fmt: skip
        result = replace(self._measure(network, trained.seconds), plan=plan)
        self._write(network, student, result, weights=network.module.state_dict(), history=trained.history)
        return result

    def _keep_failure(self, network: Network, student: Student, failure: str) -> TrainResult:
        result = _counted(network, failure=failure)
        self._write(network, student, result, weights=None, history=())
        return result

    def _write(self, network: Network, student: Student, result: TrainResult, **files: Any) -> None:
        NetworkFolder.open(self.context.root / student.folder).finish(
            description=self._describe(network, student),
            metrics=result.to_json(),
            masks=student.plan.mask_tensors(),
            **files,
        )

    def _describe(self, network: Network, student: Student) -> dict[str, Any]:
        return describe_network(
            self.context.original, network, student.plan, label=student.name,
            standardisation=self.context.data.standardisation,
        )  # fmt: skip


def _seed(student: Student) -> int:
    return student.seed % 2**31


@contextmanager
def _translate_errors(task: TrainTask, device: torch.device) -> Iterator[None]:
    """Raise what torch says of too large and of too small batches as one line of ours."""
    try:
        yield
    except ValueError as error:
        if _TOO_FEW_TO_NORMALISE not in str(error):
            raise
        raise UserError(
            f"{task.name}: a batch of {task.recipe.batch_size} leaves batch normalisation one value per channel;"
            " raise training.batch_size"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and _CPU_ALLOCATOR not in str(error):
            raise
        raise RunError(f"{task.name} does not fit into the memory of {device}; lower training.batch_size") from error


def _counted(network: Network, **values: Any) -> TrainResult:
    return TrainResult(
        relu_count=network.relu_count,
        stage_relu_counts=network.stage_relu_counts,
        macs=network.macs,
        **values,
    )


def _result_in(folder: NetworkFolder, metrics: dict[str, Any], network: Network) -> TrainResult:
    try:
        result = TrainResult.from_json(metrics)
    except ValueError as error:
        raise CheckpointError(f"{folder.path}: {error}") from error
    counts = (result.relu_count, result.stage_relu_counts, result.macs)
    if counts != (network.relu_count, dict(network.stage_relu_counts), network.macs):
        raise CheckpointError(f"{folder.path}: its metrics are of another network")
    return result
