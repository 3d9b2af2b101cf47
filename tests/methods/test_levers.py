"""Which levers are pulled for latency and bytes: those that save what the protocol makes expensive, and no others."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial

import pytest

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.link import LINKS
from deepreduce.cost.model import CostModel, Phase
from deepreduce.cost.objective import COUNT_OF_RELUS, Limits, Objective, objective_named
from deepreduce.cost.preset import Preset
from deepreduce.errors import PlanError
from deepreduce.methods.base import SearchContext
from deepreduce.methods.deepreduce import stage_costs
from deepreduce.methods.levers import LeversOptions, propose_by_levers
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, collapse, cull_plan, reshape_plan, thin_plan
from deepreduce.transforms.collapse.costs import CostEstimator, estimate_costs

ORDER = ("S1",)


def network() -> Network:
    """A network with one block that can go; hundreds of its versions are estimated here."""
    spec = resolve_spec("resnet20", blocks=[1, 2, 1])
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


Scales = tuple[float, ...]
HALVED: Scales = (1.0, 0.5)
UNSCALED: Scales = (1.0,)


def costing(**seconds: float) -> Preset:
    """A preset under which only these things take time."""
    model = CostModel(name="toy", source="test", online=Phase(seconds=seconds))
    return Preset(model=model, link=LINKS["loopback"])


def found_under(
    preset: Preset, *, gain: float = 0.05, most: int = 1000, name: str = "latency", scales: Scales = HALVED,
    **limits: float,
) -> Proposals:  # fmt: skip
    options = LeversOptions(alphas=scales, rhos=scales, gain=gain, networks=most)
    return propose_by_levers(network(), ORDER, options, context(preset, name=name, **limits))


EXPENSIVE_RELUS = costing(comparisons=1e-6)


@pytest.fixture(scope="module")
def all_levers() -> Proposals:
    """Every network that pays where only ReLUs take time."""
    return found_under(EXPENSIVE_RELUS)


def context(preset: Preset, *, name: str = "latency", **limits: float) -> SearchContext:
    objective = objective_named(name, preset.name)
    estimator = estimator_of(preset)
    return SearchContext(
        budget=NoTrials(), val_images=100, objective=objective, limits=Limits(objective=objective, **limits),
        estimator=estimator, objective_estimator=estimator,
    )  # fmt: skip


class NoTrials:
    """A budget for searches that need no training."""

    def epoch_costs(self, networks: Sequence[Proposal]) -> list[float]:
        raise AssertionError("nothing is to be trained")

    trial_epochs = pays_in_full = epoch_costs


def estimator_of(preset: Preset) -> CostEstimator:
    def estimate(network: Network) -> Mapping[str, CostEstimate]:
        return estimate_costs(network, [preset])

    return estimate


# -- what pays under what -----------------------------------------------------------------------------------


def test_where_layers_of_relus_are_dear_whole_layers_go_and_nothing_is_scaled() -> None:
    plans = [p.plan for p in found_under(costing(comparing_layers=1.0)).networks]
    assert all(plan.alpha == 1 and plan.rho == 1 for plan in plans)
    assert any(plan.linearized for plan in plans) and any(plan.depth for plan in plans)


def test_where_multiplications_are_dear_channels_and_resolution_are_scaled_and_nothing_is_thinned() -> None:
    found = found_under(costing(macs=1e-9)).networks
    assert {(p.plan.alpha, p.plan.rho) for p in found} >= {(0.5, 1.0), (1.0, 0.5), (0.5, 0.5)}
    # a culled stage pays where its region collapses, alternate ReLUs never do
    assert not any("thin" in p.label for p in found)
    assert all(p.plan.pad_once for p in found if p.plan.linearized)


def test_where_relus_are_dear_each_lever_pays(all_levers: Proposals) -> None:
    labels = [p.label for p in all_levers.networks]
    for word in ("cull S1", "thin", "alpha 0.5", "rho 0.5", "depth 1-1-1"):
        assert any(word in label for label in labels), word


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        pytest.param("delphi-lan", "latency", marks=pytest.mark.slow),
        pytest.param("semi2k-wan", "bytes", marks=pytest.mark.slow),
        pytest.param("cheetah-lan", "latency", marks=pytest.mark.slow),
    ],
)
def test_every_lever_of_every_network_pays(preset: str, name: str) -> None:
    """Taken back one at a time from the network's own label, and estimated by hand."""
    model, link = preset.split("-")
    chosen = Preset(model=MODELS[model], link=LINKS[link])
    objective = objective_named(name, preset)
    original = network()
    best = cache(partial(best_cost, original, preset=chosen, objective=objective))
    for proposal in found_under(chosen, name=name).networks:
        assert proposal.cost_estimates == estimate_costs(apply_plan(original, proposal.plan), [chosen])
        cost = objective.cost(proposal)
        for other in with_one_lever_less(original, proposal.label):
            assert cost <= 0.951 * best(other), proposal.label


def with_one_lever_less(original: Network, label: str) -> list[ReductionPlan]:
    """The plans of a label's levers but one."""
    culled = found[1].split() if (found := re.match(r"cull ((?:S\d ?)+)", label)) else []
    keeps = re.search(r"thin(?: \(keep (\w+)\))?", label)
    settings = {
        "culled": culled,
        "thinned": None if keeps is None else (keeps[1] or "first"),
        "alpha": 0.5 if "alpha" in label else 1.0,
        "rho": 0.5 if "rho" in label else 1.0,
        "depth": (1, 1, 1) if "depth" in label else None,
    }
    less = []
    for name, value in {"thinned": None, "alpha": 1.0, "rho": 1.0, "depth": None}.items():
        if settings[name] != value:
            less.append({**settings, name: value})
    if culled:
        less.append({**settings, "culled": culled[:-1]})
    return [plan_of(original, **each) for each in less]  # type: ignore[arg-type]


def plan_of(
    original: Network,
    *,
    culled: list[str],
    thinned: str | None,
    alpha: float,
    rho: float,
    depth: tuple[int, ...] | None,
) -> ReductionPlan:
    plan = cull_plan(original, culled) if culled else ReductionPlan()
    if thinned:
        left = [stage for stage in original.stage_relu_counts if stage not in culled]
        plan = plan.merge(thin_plan(original, stages=left, keep=thinned))
    if alpha != 1 or rho != 1 or depth:
        plan = plan.merge(reshape_plan(alpha=alpha, rho=rho, depth=depth))
    return plan


def best_cost(original: Network, plan: ReductionPlan, preset: Preset, objective: Objective) -> float:
    """Of the plan, padded once where that saves enough."""
    costs = []
    for each in (plan, plan.merge(ReductionPlan(pad_once=True))):
        try:
            reduced = original if plan.is_empty else apply_plan(original, each)
        except PlanError:
            continue
        model, link = preset.model, preset.link
        layers = layers_of(collapse(reduced, cost=model.latency_of(link)).network)
        online, offline = model.online.total(layers), model.offline.total(layers)
        costs.append(online.latency(link) if objective.name == "latency" else online.bytes + offline.bytes)
    plain, padded = costs if len(costs) == 2 else (*costs, math.inf)
    return padded if padded <= 0.95 * plain else plain


# -- how many, and whether at all ---------------------------------------------------------------------------


def test_no_more_networks_than_asked_for_and_they_span_the_costs(all_levers: Proposals) -> None:
    every, few = all_levers.networks, found_under(EXPENSIVE_RELUS, most=6)
    cost = partial(_latency, EXPENSIVE_RELUS)
    assert len(every) > 6 == len(few.networks)
    assert {p.plan_id for p in few.networks} <= {p.plan_id for p in every}
    assert min(map(cost, few.networks)) == min(map(cost, every))
    assert any("no more than 6 networks" in reason for reason in few.left_out)
    costs = sorted(map(cost, few.networks))
    assert len(set(costs)) == 6


def test_networks_over_the_limit_take_no_place_of_those_within_it() -> None:
    find = partial(found_under, EXPENSIVE_RELUS, scales=UNSCALED)
    cost = partial(_latency, EXPENSIVE_RELUS)
    every = sorted(find().networks, key=cost)
    limit, relus = cost(every[-2]), every[0].relu_count
    within = find(most=2, max_cost=limit).networks
    assert len(every) > 3 and len(within) == 2 and max(map(cost, within)) <= limit
    few_relus = find(max_relus=relus, max_cost=limit).networks
    assert {p.plan_id for p in few_relus} == {p.plan_id for p in every if p.relu_count <= relus}
    with pytest.raises(
        PlanError, match=r"no network has at most 1 ms; the smallest, .* and costs .*: raise max_cost"
    ):
        find(max_cost=1e-3)


def _latency(preset: Preset, proposal: Proposal) -> float:
    return proposal.cost_estimates[preset.name].latency


def test_levers_that_save_too_little_are_not_pulled() -> None:
    preset = costing(query=1.0, comparisons=1e-9)
    with pytest.raises(PlanError, match=r"nothing to cull, thin or reshape \(one of its levers saves less than 5 %"):
        found_under(preset)
    # halving the resolution saves three quarters, each other lever two thirds or less
    assert {p.label for p in found_under(EXPENSIVE_RELUS, gain=0.7).networks} == {"rho 0.5"}


def test_a_lever_that_changes_nothing_takes_no_network_away() -> None:
    """A depth that the network has already: the same networks as without it."""
    none, same = (
        LeversOptions(alphas=UNSCALED, rhos=HALVED, depths=depths, networks=1000) for depths in ((), ((1, 2, 1),))
    )
    plain, repeated = (
        propose_by_levers(network(), ORDER, options, context(EXPENSIVE_RELUS)) for options in (none, same)
    )
    assert {p.plan_id for p in repeated.networks} == {p.plan_id for p in plain.networks} != set()


def test_no_two_networks_are_the_same_and_each_costs_less_than_the_original() -> None:
    preset = Preset(model=MODELS["cheetah"], link=LINKS["lan"])
    found = found_under(preset).networks
    whole = estimate_costs(network(), [preset])[preset.name].latency
    assert len({p.plan_id for p in found}) == len(found)
    assert all(_latency(preset, p) < whole for p in found)


# -- criticality by cost ------------------------------------------------------------------------------------


def test_a_stage_costs_what_the_network_is_cheaper_without_it() -> None:
    original = network()
    assert stage_costs(original, COUNT_OF_RELUS, dict) == original.stage_relu_counts  # type: ignore[arg-type]
    preset = costing(comparisons=1e-6, query=1.0)
    costs = stage_costs(original, objective_named("latency", preset.name), estimator_of(preset))
    assert costs == {stage: pytest.approx(1e-6 * count) for stage, count in original.stage_relu_counts.items()}


def test_a_stage_that_costs_next_to_nothing_can_still_be_ranked() -> None:
    preset = costing(query=1.0)
    costs = stage_costs(network(), objective_named("latency", preset.name), estimator_of(preset))
    assert all(cost > 0 for cost in costs.values())
