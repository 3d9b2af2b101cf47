"""The stages of a run: teacher, search, and the networks that the search proposes.

Each stage takes the state of the run and returns the next one; a state never changes. What all stages use is in a
`Session`, which lives as long as the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from deepreduce.candidate import TEACHER_ID, Candidate
from deepreduce.errors import RunError
from deepreduce.execution.task import Student, TrainTask
from deepreduce.execution.trainer import TrainingContext
from deepreduce.methods.base import Answers, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.plan import ReductionPlan
from deepreduce.run.outputs import write_tables
from deepreduce.run.session import RunState, Session, folder_of
from deepreduce.run.spec import scaled_recipe
from deepreduce.search.schedule import Schedule, make_schedule
from deepreduce.store.names import CANDIDATES, LOGITS_CACHE, TEACHER
from deepreduce.store.records import RunCosts, write_criticality
from deepreduce.training import AugmentationSchedule, Teacher
from deepreduce.training.logits_cache import open_logits_cache
from deepreduce.utils.seed import derived_seed

log = logging.getLogger(__name__)


def run_stages(session: Session) -> tuple[list[Candidate], Proposals]:
    """Run all stages; return the candidates, the teacher first, and what the method proposed.

    Raises `RunError` where the teacher, or every other network, can't be trained.
    """
    session, state = train_teacher(session)
    state, proposals, schedule = search_networks(session, state)
    _record_costs(session, state, schedule)
    state = train_proposed(session, state, schedule)
    candidates = state.in_order()
    if all(c.measurement is None for c in candidates if not c.is_teacher):
        reasons = "; ".join(sorted({c.failure or "" for c in candidates if c.failure}))
        raise RunError(f"no network could be trained: {reasons}; lower training.learning_rate")
    return candidates, proposals


# -- the teacher --------------------------------------------------------------------------------------------


def train_teacher(session: Session) -> tuple[Session, RunState]:
    """Train the full network; return the session in which all other trainings learn from it, and the first state."""
    spec, search = session.spec, session.spec.search
    _, schedule = search.preview()
    session.runner.expect(schedule.count, schedule.total_work)
    plan = ReductionPlan()
    student = Student(name=TEACHER_ID, plan=plan, folder=TEACHER, seed=derived_seed(spec.seed, TEACHER_ID))
    task = TrainTask(student=student, recipe=scaled_recipe(spec.recipe, epochs=search.teacher_epochs))
    ((_, result),) = session.runner.run({TEACHER: task}, {TEACHER: schedule.teacher_work.total}, session.context)
    if result.failure is not None:
        raise RunError(f"the teacher could not be trained: {result.failure}; lower training.learning_rate")
    candidate = Candidate(
        plan_id=TEACHER_ID,
        plan=plan,
        label="full network",
        relu_count=search.network.relu_count,
        folder=TEACHER,
        measurement=result.measurement(),
        cost_estimates=search.context.estimator(search.network),
    )
    taught = replace(session, context=_context_with_teacher(session, student))
    return taught, RunState().with_candidate(candidate)


def _context_with_teacher(session: Session, student: Student) -> TrainingContext:
    """Return the context of the students' trainings: the teacher, its logits cache and its test predictions."""
    spec, budget, context = session.spec, session.spec.search.budget, session.context
    network = session.trainer.load(student)
    teacher = Teacher(
        network.module.requires_grad_(False).to(memory_format=context.precision.memory_format),
        precision=context.precision,
        cache=open_logits_cache(
            session.folder / LOGITS_CACHE,
            epochs=budget.schedule_epochs,
            steps=spec.data.train.num_steps(budget.student_batch_size),
            batch_size=budget.student_batch_size,
            num_classes=spec.data.num_classes,
            max_bytes=spec.logits_cache_bytes,
        ),
    )
    schedule = AugmentationSchedule(
        seed=derived_seed(spec.seed, "views"), epochs=budget.schedule_epochs, batch_size=budget.student_batch_size
    )
    test = session.trainer.predict_test(network.module)
    return replace(
        context, teacher=teacher, teacher_test=test, schedule=schedule, threads=spec.execution.student_threads
    )


# -- the search ---------------------------------------------------------------------------------------------


def search_networks(session: Session, state: RunState) -> tuple[RunState, Proposals, Schedule]:
    """Run the method's search, with the trainings that it asks for; return its proposals and how they are trained."""
    search = session.spec.search
    requested: list[TrainingRequest] = []

    def train(requests: Sequence[TrainingRequest]) -> Answers:
        nonlocal state
        numbered = range(len(requested), len(requested) + len(requests))
        requested.extend(requests)
        state, answers = _train_requests(session, state, dict(zip(requests, numbered, strict=True)))
        return answers

    proposals = run_search(search.search(), train)
    for note in proposals.notes:
        log.warning("%s", note)
    if proposals.criticality is not None:
        write_criticality(session.folder, proposals.criticality)
    schedule = make_schedule(
        proposals, requested, search.budget, search.context.objective, teacher_epochs=search.teacher_epochs
    )
    session.runner.expect(len(schedule.epochs), schedule.proposed_work)
    return state, proposals, schedule


def _train_requests(
    session: Session, state: RunState, requests: Mapping[TrainingRequest, int]
) -> tuple[RunState, Answers]:
    """Train what a method asks for; what comes of it within the limits are candidates. Values are numbers."""
    budget, limits = session.spec.search.budget, session.spec.search.context.limits
    tasks = {r: session.task_requested(r, number) for r, number in requests.items()}
    works = {r: budget.request_work(r).total for r in requests}
    answers = {}
    for request, result in session.runner.run(tasks, works, session.context):
        proposal = session.trained_proposal(request, result)
        answers[request] = TrainingAnswer(val_accuracy=result.val_accuracy, proposal=proposal)
        if limits.allow(request.proposal) and (proposal or request.learner is None):
            state = session.keep_trained(state, proposal or request.proposal, tasks[request].folder, result)
            _write_tables(session, state)
    return state, answers


def _write_tables(session: Session, state: RunState) -> None:
    """Write the tables of what is trained so far."""
    write_tables(session.folder, state.in_order(), stages=session.spec.search.network.stages, complete=False)


def _record_costs(session: Session, state: RunState, schedule: Schedule) -> None:
    presets = session.spec.search.presets
    if presets:
        estimates = {p.plan_id: p.cost_estimates for p in schedule.candidates}
        estimates |= {plan_id: c.cost_estimates for plan_id, c in state.candidates.items()}  # teacher, probes
        models = {p.model.name: p.model for p in presets}
        RunCosts(models=models, cost_estimates=estimates).write(session.folder)


# -- the networks that the search proposes --------------------------------------------------------------------


def train_proposed(session: Session, state: RunState, schedule: Schedule) -> RunState:
    """Train the proposed networks, parents before their children; those of a level may be trained at a time.

    What the parent of a network that failed would have given is taken from the next one before it.
    """
    numbers = {proposal: number for number, proposal in enumerate(schedule.epochs)}
    failed: set[Proposal] = set()

    def start_of(proposal: Proposal) -> Proposal | None:
        parent = schedule.parents[proposal]
        while parent in failed:
            parent = schedule.parents[parent]
        return parent

    for level in schedule.levels:
        tasks = {p: session.task_on_path(p, schedule.epochs[p], parent=start_of(p), number=numbers[p]) for p in level}
        works = {p: schedule.works[p].total for p in level}
        for proposal, result in session.runner.run(tasks, works, session.context):
            if result.failure is not None:
                failed.add(proposal)
            state = session.keep_trained(state, proposal, folder_of(CANDIDATES, proposal), result)
            _write_tables(session, state)
    return state
