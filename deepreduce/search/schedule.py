"""Decide which networks a run trains, in which order, and how much work that is: everything but the training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from deepreduce.cost.objective import Objective
from deepreduce.methods.base import Answers, Search, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.search.budget import Allocation, Budget
from deepreduce.search.headroom import FrontierState
from deepreduce.training.timing import Work


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Result of a search in which no training gives a result.

    `requests` are these trainings. Where there are any, the proposals are provisional: results would change them.
    """

    requests: tuple[TrainingRequest, ...]
    proposals: Proposals

    @property
    def is_provisional(self) -> bool:
        """True where the proposals depend on trainings."""
        return bool(self.requests)


def preview_search(search: Search) -> Preview:
    """Run a search without training anything. Raises what the method raises."""
    requested: list[TrainingRequest] = []

    def leave_untrained(requests: Sequence[TrainingRequest]) -> Answers:
        requested.extend(requests)
        return {request: TrainingAnswer(proposal=request.proposal) for request in requests}

    proposals = run_search(search, leave_untrained)
    return Preview(requests=tuple(requested), proposals=proposals)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The trainings of a run, as far as is known before the first candidate is trained.

    `requests` are those that the method asks for. `candidates` are all networks that it proposes; those of `alone`
    are trained alone for the given epochs; the others share `left`, in epochs of the full network, by `allocation`.
    Works are estimates with a shared budget, as if no draft were dropped.
    """

    requests: tuple[TrainingRequest, ...]
    candidates: tuple[Proposal, ...]
    alone: Mapping[Proposal, float]
    left: float
    allocation: Allocation
    teacher_work: Work
    request_works: tuple[Work, ...]
    other_work: float

    @property
    def count(self) -> int:
        """Number of trainings: teacher, requests, candidates trained alone, and those of the allocation."""
        return 1 + len(self.requests) + len(self.alone) + self.allocation.count

    @property
    def total_work(self) -> float:
        """Multiply-accumulates of all trainings."""
        return self.teacher_work.total + sum(work.total for work in self.request_works) + self.other_work


def make_schedule(
    proposals: Proposals,
    requests: Sequence[TrainingRequest],
    budget: Budget,
    objective: Objective,
    state: FrontierState,
    *,
    teacher_epochs: float,
    trained: Collection[str] = (),
) -> Schedule:
    """Return how the proposed networks are trained within a budget.

    `requests` are the trainings that the method asked for, which the budget pays too. `state` is what is known of the
    frontier; `trained` are the ids of plans whose networks are trained already.
    """
    candidates = proposals.networks
    trained = {*trained, *proposals.trained}
    costs = {p: objective.cost(p) for p in candidates if p.plan_id not in trained}
    spent = sum(budget.price_alone({r.proposal: r.priced_epochs}) for r in requests)
    spent += budget.price_of_evaluating([r.proposal for r in requests], trained=False)
    alone, left = budget.train_alone(costs, state, spent=spent)
    others = {p: cost for p, cost in costs.items() if p not in alone}
    allocation = budget.allocate(others, state, left=left)
    works = [budget.work_alone(p, e, tested=True).total for p, e in alone.items()]
    return Schedule(
        requests=tuple(requests),
        candidates=candidates,
        alone=alone,
        left=left,
        allocation=allocation,
        teacher_work=budget.teacher_work(teacher_epochs),
        request_works=tuple(budget.work_alone(r.proposal, r.priced_epochs, tested=not r.epochs) for r in requests),
        other_work=sum(works) + budget.allocation_work(allocation, costs, state),
    )
