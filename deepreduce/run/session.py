"""The tasks of a run and its state: how each network is trained, and kept as a candidate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepreduce.candidate import Candidate
from deepreduce.execution.anneal import Anneal
from deepreduce.execution.task import Student, TrainResult, TrainTask, WarmStart
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.methods.base import TrainingRequest
from deepreduce.methods.proposal import Proposal
from deepreduce.network import without_weights
from deepreduce.plan import ReductionPlan
from deepreduce.run.runner import Runner
from deepreduce.run.spec import RunSpec
from deepreduce.store.checkpoint import read_plan
from deepreduce.store.names import CANDIDATES, PROBES, TEACHER
from deepreduce.training import CallbackFactory, RecipeChanges
from deepreduce.utils.seed import derived_seed

TEACHER_START = WarmStart(folder=TEACHER, plan=ReductionPlan())
"""The weights of the full network, from which students start."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """State of a run: its candidates by plan_id, with the teacher."""

    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    def in_order(self) -> list[Candidate]:
        """Return the teacher, then the candidates that are done, most ReLUs first."""
        return sorted(self.candidates.values(), key=lambda c: (not c.is_teacher, -c.relu_count, c.label))

    def with_candidate(self, candidate: Candidate) -> RunState:
        """Return the state with one more candidate."""
        return RunState(candidates={**self.candidates, candidate.plan_id: candidate})


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """Everything that all stages use: spec and folder of the run, its runner, and the context of its trainings."""

    spec: RunSpec
    folder: Path
    runner: Runner
    context: TrainingContext

    @property
    def trainer(self) -> CandidateTrainer:
        """Trains, loads and records networks in this process."""
        return CandidateTrainer(self.context, stop=self.runner.stop)

    # -- tasks ------------------------------------------------------------------------------------------------

    def student(self, proposal: Proposal, kind: str, *, start: WarmStart = TEACHER_START) -> Student:
        """Return the student of a proposal, whose files lie in a folder of that kind."""
        budget = self.spec.search.budget
        return Student(
            name=proposal.label,
            plan=proposal.plan,
            folder=folder_of(kind, proposal),
            seed=derived_seed(self.spec.seed, proposal.plan_id),
            start=start if budget.warm_starts else None,
            statistics_batches=budget.statistics_batches,
        )

    def task_on_path(self, proposal: Proposal, epochs: float, *, parent: Proposal | None, number: int) -> TrainTask:
        """Return the task of training the `number`-th of the proposed networks, which starts as its parent."""
        budget = self.spec.search.budget
        start = TEACHER_START if parent is None else WarmStart(folder=folder_of(CANDIDATES, parent), plan=parent.plan)
        return TrainTask(
            student=self.student(proposal, CANDIDATES, start=start),
            recipe=budget.changes.of(self.spec.student_recipe(epochs)),
            first_epoch=budget.first_epoch(number),
            callbacks=self._anneal(start),
        )

    def _task_of_trial(self, request: TrainingRequest, number: int) -> TrainTask:
        """Return the task of a training that only helps to choose, such as a probe's."""
        budget = self.spec.search.budget
        return TrainTask(
            student=self.student(request.proposal, PROBES),
            recipe=self.spec.student_recipe(request.epochs, batch_size=budget.trial_batch_size),
            first_epoch=budget.first_epoch(number),
            # first, so that other callbacks see the annealed module, and end before it hands its weights over
            callbacks=(*self._anneal(TEACHER_START), *request.callbacks),
        )

    def task_requested(self, request: TrainingRequest, number: int) -> TrainTask:
        """Return the task of the `number`-th training that the method asks for."""
        if not request.makes_network:
            return self._task_of_trial(request, number)
        budget, changes = self.spec.search.budget, request.changes or RecipeChanges()
        folder = folder_of_learner(request)
        start = self._start(request)
        student = Student(
            name=request.proposal.label,
            plan=replace(request.proposal.plan, sites=()) if start is TEACHER_START else start.plan,
            folder=folder,
            seed=derived_seed(self.spec.seed, folder),
            start=start,
            statistics_batches=budget.statistics_batches,
        )
        return TrainTask(
            student=student,
            recipe=changes.of(self.spec.student_recipe(request.epochs)),
            first_epoch=budget.first_epoch(number),
            callbacks=request.callbacks,
            learner=request.learner,
            distillation=changes.distillation,
        )

    def _start(self, request: TrainingRequest) -> WarmStart:
        """Return the network whose weights the training of a request begins with."""
        if request.start is not None:
            return WarmStart(folder=request.start.folder, plan=request.start.plan)
        return TEACHER_START if request.after is None else self._outcome(request.after)

    def _outcome(self, request: TrainingRequest) -> WarmStart:
        """Return what came of a request that has been trained."""
        if not request.makes_network:
            return WarmStart(folder=folder_of(PROBES, request.proposal), plan=request.proposal.plan)
        folder = folder_of_learner(request)
        return WarmStart(folder=folder, plan=read_plan(self.folder / folder))

    def trained_proposal(self, request: TrainingRequest, result: TrainResult) -> Proposal | None:
        """Return the network that came of a request; None where its training failed."""
        if result.failure is not None:
            return None
        plan = result.plan
        if plan is None and request.after is not None:
            plan = self._outcome(request.after).plan
        if plan is None:
            return request.proposal
        search = self.spec.search
        network = without_weights(search.network)
        return Proposal.of(network, plan, request.proposal.label, search.context.estimator)

    def _anneal(self, start: WarmStart) -> tuple[CallbackFactory, ...]:
        """Return the callback that removes ReLUs gradually, where the budget asks for it."""
        share = self.spec.search.budget.anneal_share
        return (Anneal(share=share, start=start.plan),) if share else ()

    # -- results ----------------------------------------------------------------------------------------------

    def keep_trained(self, state: RunState, proposal: Proposal, folder: str, result: TrainResult) -> RunState:
        """Return the state with a trained network among the candidates, whose files lie in `folder`.

        Of two trainings of one plan, the one with the higher validation accuracy stays.
        """
        before = state.candidates.get(proposal.plan_id)
        if before is not None and before.measurement is not None:
            if result.val_accuracy is None or before.measurement.val_accuracy >= result.val_accuracy:
                return state
        candidate = candidate_of(proposal, folder, measurement=result.measurement(), failure=result.failure)
        return state.with_candidate(candidate)


def folder_of(kind: str, proposal: Proposal) -> str:
    return f"{kind}/{proposal.plan_id}"


def folder_of_learner(request: TrainingRequest) -> str:
    """Return the folder of a network whose plan is not known before it is trained: named after what it comes of."""
    made_of = [request.proposal.plan_id, repr(request.learner), f"{request.epochs:.9g}"]
    if request.callbacks:
        made_of.append(repr(request.callbacks))
    if request.changes is not None:
        made_of.append(repr(request.changes))
    if request.start is not None:
        made_of += [request.start.plan.plan_id, request.start.digest]
    if request.after is not None:
        made_of.append(folder_of_learner(request.after))
    return f"{CANDIDATES}/{hashlib.sha256(' '.join(made_of).encode()).hexdigest()[:10]}"


def candidate_of(proposal: Proposal, folder: str, **fate: Any) -> Candidate:
    """Return the candidate of a proposal; `fate` holds its measurement, or why there is none."""
    return Candidate(
        plan_id=proposal.plan_id,
        plan=proposal.plan,
        label=proposal.label,
        relu_count=proposal.relu_count,
        folder=folder,
        cost_estimates=proposal.cost_estimates,
        **fate,
    )
