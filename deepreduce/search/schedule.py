"""Which networks a run trains, in which order, and how much work that is: everything but the training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from deepreduce.cost.objective import COUNT_OF_RELUS, UNLIMITED, Costs, Limits
from deepreduce.data import DataFacts
from deepreduce.errors import ModelError, PlanError
from deepreduce.methods import (
    DeepReduceMethod,
    LeverSearch,
    Pricing,
    Probe,
    Proposal,
    Proposals,
    propose,
    propose_by_levers,
)
from deepreduce.methods.deepreduce import check_cull_order, probes, provisional_cull_order
from deepreduce.methods.levers import stage_costs
from deepreduce.methods.proposal import unpriced
from deepreduce.network import Network, without_weights
from deepreduce.search.budget import Allocation, FullBudget, SharedBudget, TrainingCosts
from deepreduce.search.headroom import FrontierState, share_epochs
from deepreduce.training.timing import Work
from deepreduce.transforms import apply_plan

_PROBE_ALPHAS = (1.0, 0.5, 0.25, 0.125)
"""Widths of the probes of recipe `fast`: the first that can be trained in full for the probes' share.

Long trainings of narrow networks rank the stages as full ones do, short ones of wide networks don't.
"""

_NARROWING_PAYS = 0.6
"""A width must cost so much less than the one before: hardware computes 16 channels as fast as one."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The networks of a run. `is_provisional` says that the cull order, and so the candidates, will be measured.

    `left_out` tells why networks that were asked for are not among them, `notes` what their edits could not do.
    `alone` are the candidates that get the full recipe, or nearly, with their epochs; the others share `left`, in
    epochs of the full network: by `division`, as far as is known before a candidate is trained. `candidate_works` are
    an estimate with recipe `fast`: what the budget leaves, were all of them to go on.
    """

    cull_order: tuple[str, ...]
    is_provisional: bool
    probes: tuple[Probe, ...]
    probe_works: tuple[Work, ...]
    candidates: tuple[Proposal, ...]
    alone: Mapping[Proposal, float]
    left: float
    division: Allocation
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    teacher_work: Work
    draft_works: tuple[float, ...]
    candidate_works: tuple[Work, ...]

    @property
    def count(self) -> int:
        """Trainings, as far as is known: teacher, probes, families, and candidates that are not needless."""
        return 1 + len(self.probes) + len(self.alone) + self.division.count

    @property
    def total_work(self) -> float:
        """Multiply-accumulates of all trainings."""
        works = (self.teacher_work, *self.probe_works, *self.candidate_works)
        return sum(work.total for work in works) + sum(self.draft_works)


def make_schedule(
    network: Network,
    facts: DataFacts,
    method: DeepReduceMethod,
    recipe: FullBudget | SharedBudget,
    *,
    teacher_epochs: int,
    cull_order: Sequence[str] | None,
    limits: Limits = UNLIMITED,
    measured: bool = False,
    search: LeverSearch | None = None,
    price: Pricing = unpriced,
    standing: FrontierState | None = None,
    trained: Collection[str] = (),
) -> Schedule:
    """The networks that `method` trains on such data.

    `cull_order` None means that it will be measured by probes: until then the stages that cost most stand first.
    `measured` says that the given order comes from probes, which then remain part of the run. `search` None: the
    networks of the paper, for few ReLUs. `price` tells what each costs under secure computation; no network oversteps
    `limits`. `standing` is what is known of the frontier (None: nothing), `trained` the ids of plans whose networks
    are trained already. Raises `PlanError` where nothing is left to train.
    """
    is_probed = cull_order is None or measured
    network = without_weights(network)  # hundreds of networks may be weighed up
    if cull_order is None:
        costs_of_stages = None if search is None else stage_costs(network, search.objective, search.price)
        order = provisional_cull_order(network, costs_of_stages)
    else:
        order = check_cull_order(network, cull_order)
    proposals: Proposals
    if search is None:
        proposals = propose(network, order, method, price=price, limits=limits)
    else:
        proposals = propose_by_levers(network, order, method, search, limits=limits)
        priced = [replace(p, prices=price(apply_plan(network, p.plan))) for p in proposals.networks]
        proposals = replace(proposals, networks=tuple(priced))
    kept = proposals.networks
    objective = COUNT_OF_RELUS if search is None else search.objective
    if standing is None:
        whole = objective.cost(Costs(relu_count=network.relu_count, prices=price(network)))
        standing = FrontierState(whole=whole, full=1.0, error=0.0, chance=1 / facts.num_classes)
    costs = TrainingCosts(load=network.load, facts=facts, recipe=recipe)
    probed, probe_epochs = _probing(network, costs, price) if is_probed else ((), ())
    frontier_costs = {p: objective.cost(p) for p in kept if p.plan_id not in trained}
    probing = costs.training_alone([p.proposal for p in probed], probe_epochs)
    probing += costs.judging([p.proposal for p in probed], trained=False)
    alone, left = costs.alone(frontier_costs, standing, probing=probing)
    others = {p: cost for p, cost in frontier_costs.items() if p not in alone}
    division = costs.division(others, standing, budget=left)
    return Schedule(
        cull_order=order,
        is_provisional=cull_order is None and bool(probed),
        probes=probed,
        probe_works=tuple(
            costs.alone_work(p.proposal, epochs, tested=False) for p, epochs in zip(probed, probe_epochs, strict=True)
        ),
        candidates=kept,
        alone=alone,
        left=left,
        division=division,
        left_out=proposals.left_out,
        notes=proposals.notes,
        teacher_work=costs.work(network.load, teacher_epochs, batch_size=recipe.batch_size, tested=True),
        draft_works=tuple(costs.family_work(family) for family in division.families),
        candidate_works=tuple(costs.candidate_works(kept, frontier_costs, alone, division, standing)),
    )


def _probing(network: Network, costs: TrainingCosts, price: Pricing) -> tuple[tuple[Probe, ...], Sequence[float]]:
    """The probes, and for how many epochs each is trained."""
    recipe = costs.recipe
    if isinstance(recipe, FullBudget):
        probed = tuple(probes(network, price=price))
        return probed, [recipe.epochs] * len(probed)
    budget = recipe.probe_share * recipe.price * recipe.epochs
    found: tuple[Probe, ...] = ()
    each: list[float] = []
    for alpha in _PROBE_ALPHAS:
        try:
            narrower = tuple(probes(network, alpha=alpha, price=price))
        except (ModelError, PlanError):  # it can't be as narrow
            break
        costs_narrower = costs.epoch_costs([p.proposal for p in narrower], batch_size=costs.alone_batch_size)
        if found and sum(costs_narrower) > _NARROWING_PAYS * sum(each):
            break
        found, each = narrower, costs_narrower
        if sum(each) * recipe.epochs <= budget:
            break
    return found, share_epochs(each, budget=budget, limit=recipe.epochs)
