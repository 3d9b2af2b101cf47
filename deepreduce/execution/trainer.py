"""One network of a run: trained or resumed in its folder, measured, and kept there."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from deepreduce.data import ImageData
from deepreduce.errors import CheckpointError, NonFiniteLossError, RunError, UserError
from deepreduce.network import Network
from deepreduce.plan import Measurement, ReductionPlan
from deepreduce.store.checkpoint import describe_network, load_weights
from deepreduce.store.run_folder import NetworkFolder
from deepreduce.training import (
    AugmentationSchedule,
    Distillation,
    Monitor,
    Precision,
    Predictions,
    Recipe,
    SharedWeights,
    Snapshot,
    Teacher,
    Trained,
    churn,
    predict,
    recompute_statistics,
    train,
)
from deepreduce.training.timing import JUDGED_BATCH
from deepreduce.transforms import AnnealedNetwork, apply_plan, fading, warm_start
from deepreduce.utils.seed import derived_seed

log = logging.getLogger(__name__)

# torch has no errors of its own for these
_CPU_ALLOCATOR = "DefaultCPUAllocator"
_TOO_FEW_TO_NORMALISE = "Expected more than 1 value per channel"


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """A network of the run that is trained already: where its weights are, and its plan."""

    folder: NetworkFolder
    plan: ReductionPlan


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """A network to train: what reduces the original to it, whose weights it starts from, by which recipe.

    Without a `start` it has the original's initial weights. `statistics_batches` batches give it new batch-norm
    statistics after the training (0: it keeps those of the training). `test` says whether its test accuracy is
    wanted; what only helps to choose is judged by validation accuracy alone. `first_view` is the epoch of the views
    that it is shown first: networks side by side that begin apart need not ask the teacher the same at once. Over the
    first `ease` of the training, the ReLUs that the plan drops go gradually (0: at once).
    """

    name: str
    plan: ReductionPlan
    folder: NetworkFolder
    recipe: Recipe
    seed: int
    start: WarmStart | None = None
    statistics_batches: int = 0
    test: bool = True
    first_view: int = 0
    ease: float = 0.0

    def done_in(self, workshop: CandidateTrainer) -> TrainResult | None:
        """Its outcome where it is trained already."""
        return workshop.finished(self)

    def run_in(self, workshop: CandidateTrainer, told: Monitor) -> TrainResult:
        """Train it; raises as `Workshop.run` does."""
        return workshop.run(self, told)


@dataclass(frozen=True, kw_only=True)
class SharedWeightsTask:
    """Networks of one size to train together: their convolutions share weights, each has batch-norms of its own.

    `jobs` are the networks, of which a `start` common to all gives the first weights; their recipes and seeds are not
    used. `turns` are numbers of the jobs, each as often as it is trained before all come again (`train`). `folder`
    keeps the training while it goes on.
    """

    name: str
    jobs: tuple[TrainTask, ...]
    turns: tuple[int, ...]
    folder: NetworkFolder
    recipe: Recipe
    seed: int
    ease: float = 0.0

    def done_in(self, workshop: CandidateTrainer) -> dict[str, TrainResult] | None:
        """The outcome of each of the networks by its name, where all are trained already."""
        return workshop.finished_shared(self)

    def run_in(self, workshop: CandidateTrainer, told: Monitor) -> dict[str, TrainResult]:
        """Train them; raises as `Workshop.run` does."""
        return workshop.run_shared(self, told)


@dataclass(frozen=True, kw_only=True)
class _Pupil:
    """What is trained for a network: itself, or one whose ReLUs go gradually until it is that network."""

    network: Network
    faded: AnnealedNetwork | None
    ease: float

    @property
    def module(self) -> nn.Module:
        return self.network.module if self.faded is None else self.faded.module

    def advance(self, done: float) -> None:
        """`done` is the share of the training."""
        if self.faded is not None:
            self.faded.fade(done / self.ease)

    def settle(self) -> None:
        """Give the network the weights that were trained for it."""
        if self.faded is not None:
            self.network.module.to(next(self.faded.module.parameters()).device)
            self.network.module.load_state_dict(self.faded.module.state_dict())


def _all(pupils: Sequence[_Pupil]) -> Callable[[float], None]:
    def advance(done: float) -> None:
        for pupil in pupils:
            pupil.advance(done)

    return advance


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What became of a job: accuracies as fractions, or why it failed."""

    val_accuracy: float | None = None
    test_accuracy: float | None = None
    churn: float | None = None
    train_seconds: float = 0.0
    relu_count: int = 0
    stage_relu_counts: dict[str, int] | None = None
    macs: int = 0
    failure: str | None = None

    def summary(self) -> str:
        """Return the result in a few words, as in "val 90.28 %, test 89.50 %, 14,336 ReLUs, 12 s"."""
        if self.failure is not None:
            return f"failed: {self.failure}"
        parts = [
            f"{name} {100 * accuracy:.2f} %"
            for name, accuracy in (("val", self.val_accuracy), ("test", self.test_accuracy))
            if accuracy is not None
        ]
        return f"{', '.join(parts)}, {self.relu_count:,} ReLUs, {self.train_seconds:.0f} s"

    def measurement(self) -> Measurement | None:
        """As a measurement; None for a network that failed or whose test accuracy was not wanted."""
        if self.failure is not None or self.val_accuracy is None or self.test_accuracy is None:
            return None
        return Measurement(
            relu_count=self.relu_count,
            stage_relu_counts=self.stage_relu_counts or {},
            macs=self.macs,
            val_accuracy=self.val_accuracy,
            test_accuracy=self.test_accuracy,
            churn=self.churn or 0.0,
            train_seconds=self.train_seconds,
        )


@dataclass(kw_only=True, eq=False)
class CandidateTrainer:
    """Where all networks of a run are trained: the data, the arithmetic, and the teacher once there is one.

    `lesson` is what it teaches (None: labels are all there is), `teacher_test` its predictions of the test images:
    those of the network that was tested last without a lesson, unless they are given. All students see the same
    `views`.
    """

    original: Network
    data: ImageData
    precision: Precision
    device: torch.device
    distillation: Distillation
    checkpoint_seconds: float
    stop: Callable[[], bool]
    views: AugmentationSchedule | None = None
    lesson: Teacher | None = None
    teacher_test: Predictions | None = None

    def run(self, job: TrainTask, told: Monitor) -> TrainResult:
        """The job's outcome, from its folder where it is done already; `told` is told what is trained.

        A corrupt file is named in the log and the network trained again. Raises `Stopped` when asked to stop,
        `RunError` where the network does not fit into memory, `UserError` where a batch is too small for it.
        """
        with _one_line(job, self.device):
            return self._done(job) or self._train(job, told)

    def run_shared(self, shared: SharedWeightsTask, told: Monitor) -> dict[str, TrainResult]:
        """The outcome of each of the networks by its name, from their folders where all are done already.

        `train_seconds` of each is its share of the steps. Raises as `run` does.
        """
        with _one_line(shared, self.device):
            outcomes = self._done_shared(shared) or self._train_shared(shared, told)
        shared.folder.discard()
        return outcomes

    def _done_shared(self, shared: SharedWeightsTask) -> dict[str, TrainResult] | None:
        done = {job.name: self._done(job) for job in shared.jobs}
        known = {name: outcome for name, outcome in done.items() if outcome is not None}
        return known if len(known) == len(shared.jobs) else None

    def _train_shared(self, shared: SharedWeightsTask, told: Monitor) -> dict[str, TrainResult]:
        networks = self._untrained_family(shared.jobs)
        pupils = [
            self._pupil(network, job, ease=shared.ease) for job, network in zip(shared.jobs, networks, strict=True)
        ]
        family = SharedWeights([pupil.module for pupil in pupils])
        turns = [family.members[i] for i in shared.turns]
        try:
            trained = self._fit(family, shared, told, turns=turns, fading=pupils)
        except NonFiniteLossError as error:
            log.warning("%s failed: %s", shared.name, error)
            trained = None
            failure = str(error)
        outcomes = {}
        for number, (job, network) in enumerate(zip(shared.jobs, networks, strict=True)):
            if trained is None:
                outcomes[job.name] = self._keep_failure(network, job, failure)
                continue
            pupils[number].settle()
            share = shared.turns.count(number) / max(len(shared.turns), 1)
            own = Trained(history=(), seconds=trained.seconds * share)
            outcomes[job.name] = self._keep(network, job, own)
        return outcomes

    def finished(self, job: TrainTask) -> TrainResult | None:
        """The job's outcome where its folder holds it, whole; a corrupt file is named in the log and cleared away."""
        with _one_line(job, self.device):
            return self._done(job)

    def finished_shared(self, shared: SharedWeightsTask) -> dict[str, TrainResult] | None:
        """The outcomes of the networks by their names, where the folders of all hold them, whole."""
        with _one_line(shared, self.device):
            outcomes = self._done_shared(shared)
        if outcomes is not None:
            shared.folder.discard()
        return outcomes

    def leave_untrained(self, job: TrainTask, reason: str) -> None:
        """Write down what network it would be, and why it is not trained."""
        if self.finished(job) is None:
            self._keep_failure(self._reduced(job), job, reason)

    def load(self, job: TrainTask) -> Network:
        """The job's trained network, in evaluation mode on the device."""
        network = self._reduced(job)
        load_weights(network.module, job.folder.weights(), source=job.folder.path)
        network.module.to(self.device).eval()
        return network

    def predict_test(self, module: nn.Module) -> Predictions:
        """The network's answers to the test images."""
        return self._predict(module, self.data.test)

    def _reduced(self, job: TrainTask) -> Network:
        return apply_plan(self.original, job.plan, seed=_seed(job))

    def _untrained(self, job: TrainTask) -> Network:
        """The network as it starts."""
        if job.start is None:
            return self._reduced(job)
        weights = job.start.folder.weights()
        return warm_start(self.original, job.plan, parent=job.start.plan, weights=weights, seed=_seed(job))

    def _untrained_family(self, jobs: Sequence[TrainTask]) -> list[Network]:
        """Networks of one size as they start: what the first one inherits is the same for all."""
        first = self._untrained(jobs[0])
        weights = first.module.state_dict()
        others = [self._reduced(job) for job in jobs[1:]]
        for job, network in zip(jobs[1:], others, strict=True):
            load_weights(network.module, weights, source=job.folder.path)
        return [first, *others]

    def _done(self, job: TrainTask) -> TrainResult | None:
        try:
            metrics = job.folder.finished()
            if metrics is None:
                return None
            outcome = _outcome_of(metrics, job)
            network = self._reduced(job)
            if outcome.failure is None:
                load_weights(network.module, job.folder.weights(), source=job.folder.path)
            job.folder.check_description(self._description(network, job))
            return outcome
        except CheckpointError as error:
            log.warning("%s; training %s again", error, job.name)
            job.folder.clear()
            return None

    def _train(self, job: TrainTask, told: Monitor) -> TrainResult:
        network = self._untrained(job)
        pupil = self._pupil(network, job, ease=job.ease)
        try:
            trained = self._fit(pupil.module, job, told, fading=[pupil], first_view=job.first_view)
        except NonFiniteLossError as error:
            log.warning("%s failed: %s", job.name, error)
            return self._keep_failure(network, job, str(error))
        pupil.settle()
        return self._keep(network, job, trained)

    def _pupil(self, network: Network, job: TrainTask, *, ease: float) -> _Pupil:
        faded = fading(self.original, job.plan, seed=_seed(job)) if ease else None
        if faded is not None:
            faded.module.load_state_dict(network.module.state_dict())
        return _Pupil(network=network, faded=faded, ease=ease)

    def _keep_failure(self, network: Network, job: TrainTask, failure: str) -> TrainResult:
        outcome = _counted(network, failure=failure)
        job.folder.finish(
            weights=None, description=self._description(network, job), metrics=_metrics_of(outcome), history=()
        )
        return outcome

    def _keep(self, network: Network, job: TrainTask, trained: Trained) -> TrainResult:
        """Measure a network that is trained, and write its files."""
        if job.statistics_batches:
            recompute_statistics(
                network.module, self.data, batches=job.statistics_batches, batch_size=job.recipe.batch_size,
                seed=derived_seed(job.seed, "statistics"), precision=self.precision, device=self.device,
            )  # fmt: skip
        outcome = self._measure(network, trained, job)
        job.folder.finish(
            weights=network.module.state_dict(),
            description=self._description(network, job),
            metrics=_metrics_of(outcome),
            history=trained.history,
        )
        return outcome

    def _description(self, network: Network, job: TrainTask) -> dict[str, Any]:
        return describe_network(
            self.original, network, job.plan, label=job.name, standardisation=self.data.standardisation
        )

    def _snapshot(self, job: TrainTask | SharedWeightsTask) -> Snapshot | None:
        try:
            return job.folder.snapshot()
        except CheckpointError as error:
            log.warning("%s; training %s again from the start", error, job.name)
            job.folder.clear()
            return None

    def _fit(
        self,
        module: nn.Module,
        job: TrainTask | SharedWeightsTask,
        told: Monitor,
        *,
        fading: Sequence[_Pupil],
        turns: Sequence[nn.Module] = (),
        first_view: int = 0,
    ) -> Trained:
        if job.recipe.epochs == 0:
            module.to(self.device)
            told.on_start(())
            return Trained(history=(), seconds=0.0)
        snapshot = self._snapshot(job)
        untrained = None if snapshot is None else copy.deepcopy(module.state_dict())
        monitor = replace(told, save=job.folder.save_snapshot, save_every=self.checkpoint_seconds, stop=self.stop)
        try:
            return train(
                module, self.data, job.recipe, seed=job.seed, precision=self.precision, device=self.device,
                turns=turns, lesson=self.lesson, distillation=self.distillation, resume=snapshot, monitor=monitor,
                views=self._views_from(first_view), before_step=_all(fading),
            )  # fmt: skip
        except CheckpointError as error:
            if untrained is None:
                raise
            log.warning("%s: %s; training %s again from the start", job.folder.path, error, job.name)
            job.folder.clear()
            module.load_state_dict(untrained)
            return self._fit(module, job, told, turns=turns, fading=fading, first_view=first_view)

    def _views_from(self, first: int) -> AugmentationSchedule | None:
        """Those of students; a training without a lesson has its own."""
        return replace(self.views, first=first) if self.views is not None and self.lesson is not None else None

    def _measure(self, network: Network, trained: Trained, job: TrainTask) -> TrainResult:
        # in the plain layout of a network that is loaded back, so that its accuracies are those measured here
        network.module.to(memory_format=torch.contiguous_format)
        val_accuracy = self._predict(network.module, self.data.val).accuracy
        test_accuracy = disagreement = None
        if job.test:
            test = self._predict(network.module, self.data.test)
            test_accuracy = test.accuracy
            if self.lesson is None:
                self.teacher_test = test
            disagreement = churn(test, self.teacher_test) if self.teacher_test is not None else 0.0
        return _counted(
            network, val_accuracy=val_accuracy, test_accuracy=test_accuracy, churn=disagreement,
            train_seconds=trained.seconds,
        )  # fmt: skip

    def _predict(self, module: nn.Module, split: Any) -> Predictions:
        return predict(module, split, batch_size=JUDGED_BATCH, device=self.device)


def _seed(job: TrainTask) -> int:
    return job.seed % 2**31


@contextmanager
def _one_line(job: TrainTask | SharedWeightsTask, device: torch.device) -> Iterator[None]:
    """Turns what torch says of too large and of too small batches into our errors."""
    try:
        yield
    except ValueError as error:
        if _TOO_FEW_TO_NORMALISE not in str(error):
            raise
        raise UserError(
            f"{job.name}: a batch of {job.recipe.batch_size} leaves batch normalisation one value per channel;"
            " raise training.batch_size"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and _CPU_ALLOCATOR not in str(error):
            raise
        raise RunError(f"{job.name} does not fit into the memory of {device}; lower training.batch_size") from error


def _counted(network: Network, **values: Any) -> TrainResult:
    return TrainResult(
        relu_count=network.relu_count,
        stage_relu_counts=network.stage_relu_counts,
        macs=network.macs,
        **values,
    )


def _metrics_of(outcome: TrainResult) -> dict[str, Any]:
    return {name: value for name, value in vars(outcome).items() if value is not None}


def _outcome_of(metrics: dict[str, Any], job: TrainTask) -> TrainResult:
    try:
        outcome = TrainResult(**metrics)
    except TypeError as error:
        raise CheckpointError(f"{job.folder.path}: its metrics can't be read: {error}") from error
    if not _holds_numbers(outcome):
        raise CheckpointError(f"{job.folder.path}: its metrics hold what is no number")
    if outcome.failure is None and (outcome.val_accuracy is None or job.test != (outcome.test_accuracy is not None)):
        raise CheckpointError(f"{job.folder.path}: its metrics are incomplete")
    return outcome


def _holds_numbers(outcome: TrainResult) -> bool:
    counts = {} if outcome.stage_relu_counts is None else outcome.stage_relu_counts
    values = (outcome.val_accuracy, outcome.test_accuracy, outcome.churn)
    costs = (outcome.train_seconds, outcome.relu_count, outcome.macs)
    if not isinstance(counts, dict):
        return False
    numbers = [*(v for v in values if v is not None), *costs, *counts.values()]
    return all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)
