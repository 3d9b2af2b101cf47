"""DeepReDuce's levers for another cost than ReLUs: every combination of them in which each one pays.

Under garbled circuits nearly all of the cost is ReLUs, elsewhere it is convolutions, or the rounds of each layer of
ReLUs however few they are. So nothing is assumed about the protocol: every combination of

- stages culled, in the order of their criticality (section 3.1 of DeepReDuce), none among them,
- thinning, or not (section 3.2),
- channels and resolution scaled, and blocks dropped (section 3.3),
- with the padding of regions that have become linear done once, where their collapse then saves enough,

gets a cost estimate, and a combination is kept only if every one of its levers saves enough (option `gain`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from deepreduce.cost.objective import Costs
from deepreduce.errors import PlanError
from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.deepreduce import (
    DeepReduceOptions,
    live_stages,
    reshape_label,
    search_in_measured_order,
)
from deepreduce.methods.proposal import Collector, Proposal, Proposals
from deepreduce.network.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import THIN_KEEP, cull_plan, reshape_plan, thin_plan
from deepreduce.utils.fields import Count, Real


class LeversOptions(DeepReduceOptions):
    """Options of the lever search: which levers are pulled, and how far."""

    gain: Annotated[Real, Field(ge=0, lt=1)] = 0.05
    """Share of the cost that every lever of a network must save."""
    networks: Count = 16
    """Try no more networks than that: of those that cost nearly the same, the one with fewer ReLUs is given up."""


class Levers:
    """Estimate every combination of DeepReDuce's levers under a protocol; keep those in which each lever pays."""

    name = "levers"
    summary = "every combination of DeepReDuce's levers in which each one saves latency or bytes of a protocol"
    Options = LeversOptions
    paper = "its levers: DeepReDuce, Jha et al., ICML 2021, arXiv 2103.01396"
    unit = "site"
    epochs = "the recipe's"

    def search(self, network: Network, options: LeversOptions, context: SearchContext) -> Search:
        """Request probes as DeepReDuce does; return the combinations of levers that pay."""

        def propose_in(order: Sequence[str]) -> Proposals:
            return propose_by_levers(network, order, options, context)

        return (yield from search_in_measured_order(network, options, context, propose_in))


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """A setting of all levers.

    `culled` is a number of stages; `alpha`, `rho` and `depth` are places in lists that begin with 1, 1 and None;
    `thinned` is the ReLU that each thinned block keeps, "" where none is thinned.
    """

    culled: int = 0
    thinned: str = ""
    alpha: int = 0
    rho: int = 0
    depth: int = 0

    def taken_back(self) -> Iterator[_Setting]:
        """Yield the settings with one lever pulled a notch less."""
        for lever in ("culled", "alpha", "rho"):
            notch = getattr(self, lever)
            if notch:
                yield replace(self, **{lever: notch - 1})
        if self.thinned:
            yield replace(self, thinned="")
        if self.depth:
            yield replace(self, depth=0)


def propose_by_levers(
    network: Network, cull_order: Sequence[str], options: LeversOptions, context: SearchContext
) -> Proposals:
    """Return the networks to try for the context's objective, when stages are culled in that order.

    Networks are compared by the objective's own preset; those that are returned have the estimates of all presets.
    Raises `PlanError` where no lever pays, or none enough.
    """
    objective = context.objective
    collected = Collector(network, context.objective_estimator)
    found: dict[_Setting, Proposal] = {}
    for setting, plan, label in _Levers(network=network, cull_order=cull_order, options=options).settings(collected):
        proposal = collected.propose(plan, label)
        if proposal is not None:
            found[setting] = collected.add(_padded_once_where_it_pays(proposal, options, context))
    costs = {setting: objective.cost(proposal) for setting, proposal in found.items()}
    costs[_UNTOUCHED] = objective.cost(
        Costs(relu_count=network.relu_count, cost_estimates=context.objective_estimator(network))
    )
    simplest: dict[str, _Setting] = {}
    for setting, proposal in found.items():
        if simplest.setdefault(proposal.plan_id, setting) != setting:
            continue  # a lever that changed nothing: the same network without it is judged
        before = min((costs[other] for other in setting.taken_back() if other in costs), default=math.inf)
        if costs[setting] > (1 - options.gain) * before:
            collected.drop(
                proposal, f"one of its levers saves less than {100 * options.gain:g} % of {objective.noun}"
            )
    collected.keep_within(context.limits)
    _spread_out(collected, options, context)
    proposals = collected.proposals(cull_order=tuple(cull_order))
    return replace(proposals, networks=tuple(p.estimated_by(context.estimator) for p in proposals.networks))


_UNTOUCHED = _Setting()


@dataclass(frozen=True, kw_only=True)
class _Levers:
    """All settings of the levers on a network, each with its plan and label."""

    network: Network
    cull_order: Sequence[str]
    options: LeversOptions

    def settings(self, collected: Collector) -> Iterator[tuple[_Setting, ReductionPlan, str]]:
        # 1 and None first: not pulled
        alphas, rhos = (sorted({1.0, *scales}, reverse=True) for scales in (self.options.alphas, self.options.rhos))
        depths = (None, *(_halved(self.network) if self.options.depths is None else self.options.depths))
        keeps = THIN_KEEP if self.options.thin_keep == "both" else (self.options.thin_keep,)
        for culled in range(len(self.cull_order) + 1):
            for thinned, sites, words in self._site_plans(culled, keeps, collected):
                for (a, alpha), (r, rho), (d, depth) in itertools.product(
                    enumerate(alphas), enumerate(rhos), enumerate(depths)
                ):
                    setting = _Setting(culled=culled, thinned=thinned, alpha=a, rho=r, depth=d)
                    plan = sites.merge(reshape_plan(alpha=alpha, rho=rho, depth=depth)) if a or r or d else sites
                    if setting != _UNTOUCHED:
                        yield setting, plan, ", ".join(filter(None, [*words, reshape_label(alpha, rho, depth)]))

    def _site_plans(
        self, culled: int, keeps: Sequence[str], collected: Collector
    ) -> Iterator[tuple[str, ReductionPlan, list[str]]]:
        """Yield (how it is thinned, plan, label parts) of the ways to drop ReLUs with `culled` stages culled."""
        stages = list(self.cull_order[:culled])
        plan = cull_plan(self.network, stages) if stages else ReductionPlan()
        words = [f"cull {' '.join(stages)}"] if stages else []
        yield "", plan, words
        kept = [stage for stage in live_stages(self.network) if stage not in stages]
        for keep in keeps:
            thin = "thin" if keep == "first" else f"thin (keep {keep})"
            try:
                thinned = thin_plan(self.network, stages=kept, keep=keep)
            except PlanError as error:
                collected.leave_out(str(error), ", ".join([*words, thin]))
            else:
                yield keep, plan.merge(thinned), [*words, thin]


def _halved(network: Network) -> tuple[tuple[int, ...], ...]:
    """Return half the blocks of every stage, where there are blocks to drop."""
    blocks = network.blocks or ()
    return (tuple(-(-count // 2) for count in blocks),) if any(count > 1 for count in blocks) else ()


def _padded_once_where_it_pays(proposal: Proposal, options: LeversOptions, context: SearchContext) -> Proposal:
    cost = context.objective.cost
    if not proposal.plan.linearized:
        return proposal
    try:
        padded = proposal.padded_once(context.objective_estimator)
    except PlanError:  # no region that would collapse
        return proposal
    return padded if cost(padded) <= (1 - options.gain) * cost(proposal) else proposal


def _spread_out(collected: Collector, options: LeversOptions, context: SearchContext) -> None:
    """Drop networks until no more are left than asked for, of those that cost the same to a few percent."""
    cost = context.objective.cost
    left = sorted(collected.found, key=lambda p: (cost(p), -p.relu_count, p.plan_id))
    while len(left) > options.networks:
        ratios = [cost(larger) / max(cost(smaller), 1e-12) for smaller, larger in itertools.pairwise(left)]
        nearest = min(range(len(ratios)), key=lambda i: ratios[i])
        given_up = min(left[nearest : nearest + 2], key=lambda p: (p.relu_count, cost(p)))
        left.remove(given_up)
        collected.drop(
            given_up, f"no more than {options.networks} networks are tried, and others cost nearly the same"
        )
