"""The stages of a run: teacher, search, networks trained alone, networks that share weights.

Each stage takes the state of the run and returns the next one; a state never changes. What all stages use is in a
`Session`, which lives as long as the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from deepreduce.candidate import TEACHER_ID, Candidate
from deepreduce.errors import RunError
from deepreduce.execution.task import Student, TrainResult, TrainTask, WarmStart
from deepreduce.execution.trainer import TrainingContext
from deepreduce.methods.base import Answers, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.plan import ReductionPlan
from deepreduce.run.outputs import write_tables
from deepreduce.run.session import TEACHER_START, RunState, Session, candidate_of, folder_of
from deepreduce.run.spec import scaled_recipe, standard_error
from deepreduce.search.budget import SharingGroup
from deepreduce.search.headroom import FrontierState, Incumbent, turn_order
from deepreduce.search.schedule import Schedule, make_schedule
from deepreduce.store.names import CANDIDATES, DRAFTS, LOGITS_CACHE, TEACHER
from deepreduce.store.records import RunCosts, write_criticality
from deepreduce.training import AugmentationSchedule, Teacher
from deepreduce.training.logits_cache import open_logits_cache
from deepreduce.transforms import can_warm_start
from deepreduce.utils.seed import derived_seed

log = logging.getLogger(__name__)

_ROUNDS = 4
"""Turns that the network of the fewest draft epochs has, before all turns begin again."""


def run_stages(session: Session) -> tuple[list[Candidate], Proposals]:
    """Run all stages; return the candidates, the teacher first, and what the method proposed.

    Raises `RunError` where the teacher, or every other network, can't be trained.
    """
    session, state = train_teacher(session)
    state, proposals, schedule = search_networks(session, state)
    _record_costs(session, state, schedule)
    state = train_alone(session, state, schedule.alone)
    state = train_sharing(session, state, schedule)
    candidates = state.in_order()
    if all(c.measurement is None for c in candidates if not c.is_teacher):
        reasons = "; ".join(sorted({c.failure or "" for c in candidates if c.failure and not c.is_dropped}))
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
    task = TrainTask.alone(student, scaled_recipe(spec.recipe, epochs=search.teacher_epochs))
    ((_, (result,)),) = session.runner.run({TEACHER: task}, {TEACHER: schedule.teacher_work.total}, session.context)
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
    accuracy = result.val_accuracy or 0.0
    frontier = FrontierState(
        full_cost=search.context.objective.cost(candidate),
        full_accuracy=accuracy,
        error=standard_error(accuracy, search.budget.facts.val_images),
        chance=1 / search.budget.facts.num_classes,
    )
    taught = replace(session, context=_context_with_teacher(session, student))
    return taught, RunState(frontier=frontier).with_candidate(candidate)


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
        proposals, requested, search.budget, search.context.objective, state.frontier,
        teacher_epochs=search.teacher_epochs, trained=state.candidates.keys(),
    )  # fmt: skip
    session.runner.expect(len(schedule.alone) + schedule.allocation.count, schedule.other_work)
    return state, proposals, schedule


def _train_requests(
    session: Session, state: RunState, requests: Mapping[TrainingRequest, int]
) -> tuple[RunState, Answers]:
    """Train what a method asks for; networks that are trained well enough become candidates. Values are numbers."""
    budget, limits = session.spec.search.budget, session.spec.search.context.limits
    tested = {
        r for r in requests if (r.makes_network or budget.makes_candidate(r.epochs)) and limits.allow(r.proposal)
    }
    tasks = {r: session.task_requested(r, number, test=r in tested) for r, number in requests.items()}
    works = {r: budget.work_alone(r.proposal, r.priced_epochs, tested=not r.epochs).total for r in requests}
    answers = {}
    for request, (result,) in session.runner.run(tasks, works, session.context):
        proposal = session.trained_proposal(request, result)
        answers[request] = TrainingAnswer(val_accuracy=result.val_accuracy, proposal=proposal)
        if request in tested and (proposal or request.learner is None):
            state = session.keep_trained(state, proposal or request.proposal, tasks[request].folder, result)
            if request.makes_network:
                stages = session.spec.search.network.stages
                write_tables(session.folder, state.in_order(), stages=stages, complete=False)
    return state, answers


def _record_costs(session: Session, state: RunState, schedule: Schedule) -> None:
    presets = session.spec.search.presets
    if presets:
        estimates = {p.plan_id: p.cost_estimates for p in schedule.candidates}
        estimates |= {plan_id: c.cost_estimates for plan_id, c in state.candidates.items()}  # teacher, probes
        models = {p.model.name: p.model for p in presets}
        RunCosts(models=models, cost_estimates=estimates).write(session.folder)


# -- networks trained alone ---------------------------------------------------------------------------------


def train_alone(session: Session, state: RunState, epochs: Mapping[Proposal, float]) -> RunState:
    """Train networks that share no weights with others, for these epochs."""
    tasks = {
        p: session.task_alone(p, CANDIDATES, epochs=e, number=number) for number, (p, e) in enumerate(epochs.items())
    }
    budget = session.spec.search.budget
    works = {p: budget.work_alone(p, e, tested=True).total for p, e in epochs.items()}
    return _train_candidates(session, state, tasks, works)


def _train_candidates(
    session: Session,
    state: RunState,
    tasks: Mapping[Proposal, TrainTask],
    works: Mapping[Proposal, float],
    drafts: Mapping[Proposal, TrainResult] | None = None,
) -> RunState:
    """Train networks, and write candidates.csv after each. The seconds of their `drafts` are added to theirs."""
    for proposal, (result,) in session.runner.run(tasks, works, session.context):
        drafted = drafts[proposal].train_seconds if drafts else 0.0
        whole = replace(result, train_seconds=drafted + result.train_seconds)
        state = session.keep_trained(state, proposal, folder_of(CANDIDATES, proposal), whole)
        stages = session.spec.search.network.stages
        write_tables(session.folder, state.in_order(), stages=stages, complete=False)
    return state


# -- networks that share weights ----------------------------------------------------------------------------


def train_sharing(session: Session, state: RunState, schedule: Schedule) -> RunState:
    """Draft the networks that the budget can't train in full, then train on their own those that no other exceeds."""
    search = session.spec.search
    budget, objective = search.budget, search.context.objective
    costs = {p: objective.cost(p) for p in schedule.candidates if p.plan_id not in state.candidates}
    allocation = budget.allocate(costs, state.frontier, left=schedule.left)
    session.runner.expect(allocation.count, budget.allocation_work(allocation, costs, state.frontier))
    for proposal, incumbent in allocation.needless.items():
        state = _leave_untrained(session, state, proposal, incumbent)
    state = train_alone(session, state, allocation.alone)
    drafts = _train_drafts(session, allocation.groups)
    state, kept = _drop_drafts(session, state, drafts)
    epochs = budget.own_epochs(kept, allocation.own_epochs, costs, state.frontier)
    tasks = {
        p: TrainTask.alone(
            session.student(p, CANDIDATES, start=WarmStart(folder=folder_of(DRAFTS, p), plan=p.plan)),
            session.spec.student_recipe(e, rate=session.spec.own_rate),
        )
        for p, e in zip(kept, epochs, strict=True)
    }
    works = {p: budget.work_after_draft(p, task.recipe.epochs).total for p, task in tasks.items()}
    session.runner.expect(len(tasks), sum(works.values()))
    return _train_candidates(session, state, tasks, works, drafts)


def _leave_untrained(session: Session, state: RunState, proposal: Proposal, incumbent: Incumbent) -> RunState:
    """Drop a network that is not trained at all."""
    reason = (
        f"{incumbent.label} ({session.spec.search.context.objective.text(incumbent.cost)}) has"
        f" {100 * incumbent.accuracy:.2f} % validation accuracy already, the full network"
        f" {100 * state.frontier.full_accuracy:.2f} %; what the price leaves for it is too little to do better"
    )
    session.trainer.record_untrained(session.student(proposal, DRAFTS, test=False), reason)
    return session.drop(state, proposal, reason)


def _train_drafts(session: Session, groups: Sequence[SharingGroup]) -> dict[Proposal, TrainResult]:
    """Train all networks of the groups for a while, those of one size together, and evaluate them."""
    first, others = groups[:1], groups[1:]
    results = _train_groups(session, {group: TEACHER_START for group in first})
    widest = _widest_draft(first[0], results) if first else TEACHER_START
    # under a limit on ReLUs, the widest draft may lack ReLUs or resolution that smaller networks have
    starts = {
        group: widest if all(can_warm_start(p.plan, widest.plan) for p in group.members) else TEACHER_START
        for group in others
    }
    return results | _train_groups(session, starts)


def _train_groups(session: Session, starts: Mapping[SharingGroup, WarmStart]) -> dict[Proposal, TrainResult]:
    spec, budget = session.spec, session.spec.search.budget
    tasks = {
        group: TrainTask(
            name=group.name,
            students=tuple(session.student(p, DRAFTS, test=False, start=start) for p in group.members),
            folder=f"{DRAFTS}/{group.folder}",
            recipe=spec.student_recipe(sum(group.epochs)),
            seed=derived_seed(spec.seed, group.name),
            turns=tuple(turn_order(group.epochs, rounds=_ROUNDS)),
            callbacks=session.anneal(),
        )
        for group, start in starts.items()
    }
    works = {group: budget.group_work(group) for group in tasks}
    results = dict(session.runner.run(tasks, works, session.context))  # in the order in which they ended
    return {p: result for group in starts for p, result in zip(group.members, results[group], strict=True)}


def _widest_draft(group: SharingGroup, results: Mapping[Proposal, TrainResult]) -> WarmStart:
    """Return the draft that smaller groups inherit from: of all channels, and of most ReLUs; else the teacher."""
    able = [p for p in group.members if p.plan.alpha == 1 and p.plan.depth is None and results[p].failure is None]
    if not able:
        return TEACHER_START
    widest = max(able, key=lambda p: p.relu_count)
    return WarmStart(folder=folder_of(DRAFTS, widest), plan=widest.plan)


def _drop_drafts(
    session: Session, state: RunState, drafts: Mapping[Proposal, TrainResult]
) -> tuple[RunState, list[Proposal]]:
    """Drop the drafts that other networks exceed, or that failed; return the others."""
    search = session.spec.search
    known = {p.plan_id: i for p, result in drafts.items() if (i := session.incumbent(p, result)) is not None}
    better = search.budget.drafts_to_drop(known, state.frontier.incumbents)
    kept = []
    for proposal, result in drafts.items():
        name = proposal.plan_id
        if name not in known:
            state = state.with_candidate(candidate_of(proposal, folder_of(DRAFTS, proposal), failure=result.failure))
        elif name in better:
            winner = better[name]
            reason = (
                f"its draft has {100 * known[name].accuracy:.2f} % validation accuracy, {winner.label}"
                f" ({search.context.objective.text(winner.cost)}) {100 * winner.accuracy:.2f} %"
            )
            state = session.drop(state, proposal, reason)
        else:
            kept.append(proposal)
    return state, kept
