"""Budgets of ReLUs: which counts a method trains masks for, and the networks that are expected of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from deepreduce.errors import PlanError
from deepreduce.methods.base import Answers, Search, SearchContext, TrainingRequest
from deepreduce.methods.deepreduce import reshape_label
from deepreduce.methods.mask_learning import Unit, expected_plan
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Collector, Proposal
from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.training import LearnerFactory, RecipeChanges
from deepreduce.utils.fields import Count, Fraction, Listed

MOST_POINTS = 64
"""Networks of one run: more would have no time each."""


class BudgetOptions(MethodOptions):
    """Options of a method that is given ReLU counts: the budgets."""

    budgets: Annotated[tuple[Count, ...], Listed, Field(min_length=1, max_length=MOST_POINTS)] | None = None
    """ReLU counts of the networks, as in 57344,28672; None: `points` counts from `most` to `least`."""
    points: Annotated[Count, Field(le=MOST_POINTS)] = 8
    """Number of networks, at each alpha and rho."""
    most: Annotated[Fraction, Field(gt=0, lt=1)] = 0.4
    """ReLUs of the largest network, as a share of the full network's."""
    least: Annotated[Fraction, Field(gt=0, lt=1)] = 0.004
    """ReLUs of the smallest network, as a share of the full network's."""


def refuse_other_objectives(name: str, context: SearchContext) -> None:
    """Raise `PlanError` for an objective other than the ReLU count."""
    if not context.objective.counts_relus:
        raise PlanError(
            f"method {name} removes ReLUs for their number, not for {context.objective.noun}; leave"
            " cost.objective at relus, or take method levers"
        )


def budgets_of(options: BudgetOptions, relu_count: int) -> list[int]:
    """Return the ReLU counts to train for, most first, for a network of so many ReLUs.

    Raises `PlanError` where the smallest network would be larger than the largest.
    """
    if options.budgets is not None:
        return sorted({budget for budget in options.budgets}, reverse=True)
    if options.least > options.most:
        raise PlanError(f"method.least is {options.least:g}, more than method.most, {options.most:g}")
    step = (options.least / options.most) ** (1 / max(options.points - 1, 1))
    counts = [round(relu_count * options.most * step**number) for number in range(options.points)]
    return sorted({max(count, 1) for count in counts}, reverse=True)


def expected_networks(
    network: Network,
    options: BudgetOptions,
    context: SearchContext,
    collected: Collector,
    *,
    unit: Unit,
    shape: ReductionPlan | None = None,
) -> dict[int, Proposal]:
    """Return the networks that are expected of one shape by their budgets, most ReLUs first.

    Budgets that no mask can meet are left out of `collected`, each with the reason. `shape` is a plan without sites.
    """
    shape = shape or ReductionPlan()
    found: dict[int, Proposal] = {}
    words = reshape_label(shape.alpha, shape.rho)
    for budget in budgets_of(options, network.relu_count):
        label = ", ".join([f"{unit} masks to {budget:,}", *([words] if words else [])])
        try:
            plan = expected_plan(network, shape, unit=unit, budget=budget)
        except PlanError as error:
            collected.leave_out(str(error), label)
            continue
        proposal = collected.propose(plan, label)
        if proposal is None:
            continue
        if not proposal.relu_count:
            collected.leave_out(f"no {unit} has as few ReLUs", label)
        elif proposal.relu_count in (p.relu_count for p in found.values()):
            collected.leave_out("a larger budget buys as many ReLUs", label)
        elif context.limits.allow(proposal):
            found[budget] = proposal
        else:
            collected.leave_out(f"it has more than {context.limits.text()}", label)
    return found


# -- trainings of their own -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One of the trainings that make a network: its epochs as published, and what differs from the run's recipe."""

    epochs: float
    changes: RecipeChanges


def train_each(
    expected: Mapping[int, Proposal],
    collected: Collector,
    context: SearchContext,
    *,
    learner: Callable[[int], LearnerFactory],
    search: Phase,
    finetune: Phase,
) -> Search:
    """Train the network of every budget on its own; return what came of it.

    In `search` the masks are learned, in `finetune` they stay. The phases divide what the run's budget gives each
    network in the proportion of their published epochs; a phase of no epochs is left out.
    """
    if not expected:
        return collected.proposals()  # raises why there is none
    shares = [phase.epochs / (search.epochs + finetune.epochs) for phase in (search, finetune)]
    epochs = dict(zip(expected.values(), context.budget.path_epochs(list(expected.values())), strict=True))
    requests = {
        budget: TrainingRequest(
            proposal=proposal,
            epochs=shares[0] * epochs[proposal],
            learner=learner(budget),
            changes=search.changes,
        )
        for budget, proposal in expected.items()
    }
    trained = yield from _train(list(requests.values()), collected)
    if finetune.epochs:
        further = [
            TrainingRequest(
                proposal=request.proposal,
                epochs=shares[1] * epochs[request.proposal],
                after=request,
                changes=finetune.changes,
            )
            for request in trained
        ]
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
