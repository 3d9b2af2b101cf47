"""Train the network of every budget in two phases of its own: masks are learned, and then they stay."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepreduce.methods.base import Answers, Search, SearchContext, TrainingRequest, cost_of_step
from deepreduce.methods.proposal import Collector, Proposal
from deepreduce.training import CallbackFactory, LearnerFactory, RecipeChanges


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One of the trainings that make a network: its epochs as published, and what differs from the run's recipe.

    `callbacks` take part in it. `extra_forwards` are the forward passes per image that it costs besides: the network
    is trained for fewer epochs, so that the phase costs its share of the budget all the same.
    """

    epochs: float
    changes: RecipeChanges
    callbacks: tuple[CallbackFactory, ...] = ()
    extra_forwards: float = 0.0

    def request(self, proposal: Proposal, epochs: float, **others: Any) -> TrainingRequest:
        """Return the request of this phase at the cost of so many epochs; `others` are further fields."""
        return TrainingRequest(
            proposal=proposal,
            epochs=epochs / cost_of_step(self.extra_forwards),
            changes=self.changes,
            callbacks=self.callbacks,
            extra_forwards=self.extra_forwards,
            **others,
        )


def train_in_phases(
    expected: Mapping[int, Proposal],
    collected: Collector,
    context: SearchContext,
    *,
    learner: Callable[[int], LearnerFactory],
    search: Phase,
    finetune: Phase,
) -> Search:
    """Train the network of every budget on its own; return what came of it.

    In `search` masks are learned, by the `learner` of the budget; in `finetune` they stay. The phases divide what the
    run's budget gives each network in the proportion of their epochs; a second one of no epochs is left out. Raises
    `PlanError` where nothing is expected.
    """
    if not expected:
        return collected.proposals()  # raises why there is none
    share = search.epochs / (search.epochs + finetune.epochs)
    epochs = dict(zip(expected.values(), context.budget.path_epochs(list(expected.values())), strict=True))
    requests = [search.request(p, share * epochs[p], learner=learner(budget)) for budget, p in expected.items()]
    trained = yield from _train(requests, collected)
    if finetune.epochs:
        further = [finetune.request(r.proposal, (1 - share) * epochs[r.proposal], after=r) for r in trained]
        trained = yield from _train(further, collected)
    for proposal in trained.values():
        collected.add(proposal)
    return replace(collected.proposals(), trained=frozenset(p.plan_id for p in collected.found))


def _train(
    requests: Sequence[TrainingRequest], collected: Collector
) -> Generator[Sequence[TrainingRequest], Answers, dict[TrainingRequest, Proposal]]:
    """Request trainings; return the networks that came of those that did not fail."""
    if not requests:
        return {}
    answers = yield requests
    found: dict[TrainingRequest, Proposal] = {}
    for request in requests:
        proposal = answers[request].proposal
        if proposal is None:
            collected.leave_out("its training failed", request.proposal.label)
        else:
            found[request] = proposal
    return found
