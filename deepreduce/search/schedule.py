"""Decide which networks a run trains, in which order, and how much work that is: everything but the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepreduce.cost.objective import Objective
from deepreduce.methods.base import Answers, Search, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.search.budget import Budget
from deepreduce.search.path import in_order, levels
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
    """The trainings of a run.

    `requests` are those that the method asks for, `candidates` all networks that it proposes. Those of `epochs` are
    trained after the search, in that order and for so many epochs; each starts as its parent, and as the budget says
    where `parents` has None.
    """

    requests: tuple[TrainingRequest, ...]
    candidates: tuple[Proposal, ...]
    epochs: Mapping[Proposal, float]
    parents: Mapping[Proposal, Proposal | None]
    teacher_work: Work
    request_works: tuple[Work, ...]
    works: Mapping[Proposal, Work]

    @property
    def levels(self) -> list[list[Proposal]]:
        """The networks trained after the search, in groups: parents are in an earlier one than their children."""
        return levels(self.parents)

    @property
    def count(self) -> int:
        """Number of trainings: teacher, requests, and proposed networks."""
        return 1 + len(self.requests) + len(self.epochs)

    @property
    def proposed_work(self) -> float:
        """Multiply-accumulates of all trainings after the search."""
        return sum(work.total for work in self.works.values())

    @property
    def total_work(self) -> float:
        """Multiply-accumulates of all trainings."""
        return self.teacher_work.total + sum(work.total for work in self.request_works) + self.proposed_work


def make_schedule(
    proposals: Proposals,
    requests: Sequence[TrainingRequest],
    budget: Budget,
    objective: Objective,
    *,
    teacher_epochs: float,
) -> Schedule:
    """Return how the proposed networks are trained within a budget.

    `requests` are the trainings that the method asked for, which the budget pays too. A network that came of them, or
    that one of them trained by the full recipe, is not trained again.
    """
    done = {r.proposal.plan_id for r in requests if r.epochs >= budget.epochs and not r.callbacks}
    done |= proposals.trained
    ordered = in_order([p for p in proposals.networks if p.plan_id not in done], objective.cost)
    request_works = tuple(budget.request_work(request) for request in requests)
    epochs = budget.path_epochs(ordered, spent=budget.price_of(request_works))
    return Schedule(
        requests=tuple(requests),
        candidates=proposals.networks,
        epochs=dict(zip(ordered, epochs, strict=True)),
        parents=budget.parents(ordered),
        teacher_work=budget.teacher_work(teacher_epochs),
        request_works=request_works,
        works={p: budget.path_work(p, e) for p, e in zip(ordered, epochs, strict=True)},
    )
