"""DeepReDuce's levers for another cost than ReLUs: every combination of them in which each one pays.

Under garbled circuits nearly all of the cost is ReLUs, elsewhere it is convolutions, or the rounds of each layer of
ReLUs however few they are. So nothing is assumed about the protocol: every combination of

- stages culled, in the order of their criticality (section 3.1 of DeepReDuce), none among them,
- thinning, or not (section 3.2),
- channels and resolution scaled, and blocks dropped (section 3.3),
- with the padding of regions that have become linear done once, where their collapse then saves enough,

is priced, and a combination is tried where taking back any one of its levers would cost noticeably more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deepreduce.cost.objective import UNLIMITED, Costs, Limits, Objective
from deepreduce.errors import PlanError
from deepreduce.methods.deepreduce import DeepReduceMethod, live_stages, reshape_label
from deepreduce.methods.proposal import Collector, Pricing, Proposal, Proposals, ReducedByPlan
from deepreduce.network.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import THIN_KEEP, apply_plan, cull_plan, reshape_plan, thin_plan

_LEAST_SHARE = 1e-3
"""Of the whole cost, that a stage's ReLUs are taken to have: criticality divides by it."""


@dataclass(frozen=True, kw_only=True)
class LeverSearch:
    """What is searched for: networks of low `objective`, of which `price` must know the preset.

    The method's `depths` None are here half the blocks of each stage. A lever is used where it saves the share `gain`
    of the cost or more. Of more than `most` networks those are given up that cost nearly what another does, and have
    fewer ReLUs.
    """

    objective: Objective
    price: Pricing
    gain: float = 0.05
    most: int = 16


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """How far each lever is pulled.

    `culled` is a number of stages; `alpha`, `rho` and `depth` are places in lists that begin with 1, 1 and None;
    `thinned` is the ReLU that each thinned block keeps, "" where none is thinned.
    """

    culled: int = 0
    thinned: str = ""
    alpha: int = 0
    rho: int = 0
    depth: int = 0

    def taken_back(self) -> Iterator[_Setting]:
        """The settings with one lever pulled a notch less."""
        for lever in ("culled", "alpha", "rho"):
            notch = getattr(self, lever)
            if notch:
                yield replace(self, **{lever: notch - 1})
        if self.thinned:
            yield replace(self, thinned="")
        if self.depth:
            yield replace(self, depth=0)


def propose_by_levers(
    network: Network,
    cull_order: Sequence[str],
    method: DeepReduceMethod,
    search: LeverSearch,
    *,
    limits: Limits = UNLIMITED,
) -> Proposals:
    """The networks within `limits` to try for an objective, when stages are culled in that order.

    Their prices are those that the search knows. Raises `PlanError` where no lever pays, or none enough.
    """
    objective, price = search.objective, search.price
    collected = Collector(network, price)
    found: dict[_Setting, Proposal] = {}
    for setting, plan, label in _Levers(network=network, cull_order=cull_order, method=method).settings(collected):
        reduced = collected.reduced(plan, label)
        if reduced is not None:
            found[setting] = collected.add_reduced(_padded_once_where_it_pays(reduced, search))
    costs = {setting: objective.cost(proposal) for setting, proposal in found.items()}
    costs[_UNTOUCHED] = objective.cost(Costs(relu_count=network.relu_count, prices=price(network)))
    simplest: dict[str, _Setting] = {}
    for setting, proposal in found.items():
        if simplest.setdefault(proposal.plan_id, setting) != setting:
            continue  # a lever that changed nothing: the same network without it is judged
        before = min((costs[other] for other in setting.taken_back() if other in costs), default=math.inf)
        if costs[setting] > (1 - search.gain) * before:
            collected.drop(proposal, f"one of its levers saves less than {100 * search.gain:g} % of {objective.noun}")
    collected.keep_within(limits)
    _spread_out(collected, search)
    return collected.proposals()


def stage_costs(network: Network, objective: Objective, price: Pricing) -> dict[str, float]:
    """What each stage's ReLUs cost: what the whole network costs beyond the network without them."""
    if objective.preset is None:
        return dict(network.stage_relu_counts)
    whole = objective.cost(Costs(relu_count=network.relu_count, prices=price(network)))
    costs = {}
    for stage in live_stages(network):
        without = apply_plan(network, cull_plan(network, [stage]))
        saved = whole - objective.cost(Costs(relu_count=without.relu_count, prices=price(without)))
        costs[stage] = max(saved, _LEAST_SHARE * whole)
    return costs


_UNTOUCHED = _Setting()


@dataclass(frozen=True, kw_only=True)
class _Levers:
    """All settings of the levers on a network, each with its plan and that in a reader's words."""

    network: Network
    cull_order: Sequence[str]
    method: DeepReduceMethod

    def settings(self, collected: Collector) -> Iterator[tuple[_Setting, ReductionPlan, str]]:
        # 1 and None first: not pulled
        alphas, rhos = (sorted({1.0, *scales}, reverse=True) for scales in (self.method.alphas, self.method.rhos))
        depths = (None, *(_halved(self.network) if self.method.depths is None else self.method.depths))
        keeps = THIN_KEEP if self.method.thin_keep == "both" else (self.method.thin_keep,)
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
        """ReLUs dropped: (how it is thinned, plan, in words) with so many stages culled."""
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
    """Half the blocks of every stage, where there are blocks to drop."""
    blocks = network.blocks or ()
    return (tuple(-(-count // 2) for count in blocks),) if any(count > 1 for count in blocks) else ()


def _padded_once_where_it_pays(reduced: ReducedByPlan, search: LeverSearch) -> ReducedByPlan:
    cost = search.objective.cost
    if not reduced.proposal.plan.linearized:
        return reduced
    try:
        padded = reduced.padded_once(search.price)
    except PlanError:  # no region that would collapse
        return reduced
    return padded if cost(padded.proposal) <= (1 - search.gain) * cost(reduced.proposal) else reduced


def _spread_out(collected: Collector, search: LeverSearch) -> None:
    """Give up networks until there are no more than asked for, of those that cost the same to a few percent."""
    cost = search.objective.cost
    left = sorted(collected.found, key=lambda p: (cost(p), -p.relu_count, p.plan_id))
    while len(left) > search.most:
        ratios = [cost(dear) / max(cost(cheap), 1e-12) for cheap, dear in itertools.pairwise(left)]
        nearest = min(range(len(ratios)), key=lambda i: ratios[i])
        given_up = min(left[nearest : nearest + 2], key=lambda p: (p.relu_count, cost(p)))
        left.remove(given_up)
        collected.drop(given_up, f"no more than {search.most} networks are tried, and others cost nearly the same")
