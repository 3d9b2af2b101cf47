"""Which levers are pulled for latency and bytes: those that save what the protocol makes dear, and no others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

import pytest

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.link import LINKS
from deepreduce.cost.model import CostModel, Phase
from deepreduce.cost.objective import COUNT_OF_RELUS, Limits, Objective
from deepreduce.cost.preset import Preset, prices_of
from deepreduce.cost.price import CostEstimate
from deepreduce.errors import PlanError
from deepreduce.methods.base import SearchContext
from deepreduce.methods.deepreduce import stage_costs
from deepreduce.methods.levers import LeversOptions, propose_by_levers
from deepreduce.methods.proposal import Pricing, Proposal, Proposals
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, collapse, cull_plan, reshape_plan, thin_plan

ORDER = ("S1",)


def network() -> Network:
    spec = resolve_spec("resnet20", blocks=[2, 2, 2])
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


def costing(**seconds: float) -> Preset:
    """A preset under which only these things take time."""
    model = CostModel(name="toy", source="test", online=Phase(seconds=seconds))
    return Preset(model=model, link=LINKS["loopback"])


def found_under(
    preset: Preset, *, gain: float = 0.05, most: int = 1000, name: str = "latency", **limits: float
) -> Proposals:
    options = LeversOptions(alphas=(1.0, 0.5), rhos=(1.0, 0.5), gain=gain, networks=most)
    return propose_by_levers(network(), ORDER, options, context(preset, name=name, **limits))


def context(preset: Preset, *, name: str = "latency", **limits: float) -> SearchContext:
    objective = Objective(name=name, preset=preset.name)
    price = pricing(preset)
    return SearchContext(
        budget=NoTrials(), val_images=100, objective=objective, limits=Limits(objective=objective, **limits),
        price=price, objective_price=price,
    )  # fmt: skip


class NoTrials:
    """A budget for searches that need no training."""

    def epoch_costs(self, networks: Sequence[Proposal]) -> list[float]:
        raise AssertionError("nothing is to be trained")

    trial_epochs = pays_in_full = epoch_costs


def pricing(preset: Preset) -> Pricing:
    def price(network: Network) -> Mapping[str, CostEstimate]:
        return prices_of(network, [preset])

    return price


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


def test_where_relus_are_dear_each_lever_pays() -> None:
    labels = [p.label for p in found_under(costing(comparisons=1e-6)).networks]
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
    """Taken back one at a time from the network's own label, and priced by hand."""
    model, link = preset.split("-")
    chosen = Preset(model=MODELS[model], link=LINKS[link])
    objective = Objective(name=name, preset=preset)
    original = network()
    for proposal in found_under(chosen, name=name).networks:
        assert proposal.prices == prices_of(apply_plan(original, proposal.plan), [chosen])
        cost = objective.cost(proposal)
        for other in with_one_lever_less(original, proposal.label):
            assert cost <= 0.951 * best_cost(original, other, chosen, objective), proposal.label


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
    """Of the plan, padded once or not."""
    costs = []
    for each in (plan, plan.merge(ReductionPlan(pad_once=True))):
        try:
            reduced = original if plan.is_empty else apply_plan(original, each)
        except PlanError:
            continue
        model, link = preset.model, preset.link
        layers = layers_of(collapse(reduced, cost=model.latency_of(link)).network)
        estimate = model.estimate(layers)
        sent = estimate.online_bytes + estimate.offline_bytes
        costs.append(estimate.latency(link) if objective.name == "latency" else sent)
    return min(costs)


# -- how many, and whether at all ---------------------------------------------------------------------------


def test_no_more_networks_than_asked_for_and_they_span_the_costs() -> None:
    preset = costing(comparisons=1e-6)
    every, few = found_under(preset).networks, found_under(preset, most=6)
    cost = partial(_latency, preset)
    assert len(every) > 6 == len(few.networks)
    assert {p.plan_id for p in few.networks} <= {p.plan_id for p in every}
    assert min(map(cost, few.networks)) == min(map(cost, every))
    assert any("no more than 6 networks" in reason for reason in few.left_out)
    costs = sorted(map(cost, few.networks))
    assert len(set(costs)) == 6


def test_networks_over_the_limit_take_no_place_of_those_within_it() -> None:
    preset = costing(comparisons=1e-6)
    cost = partial(_latency, preset)
    every = sorted(map(cost, found_under(preset).networks))
    limit = every[len(every) // 3]
    within = found_under(preset, most=4, max_cost=limit).networks
    assert len(within) == 4 and max(map(cost, within)) <= limit
    few_relus = found_under(preset, max_relus=20_000, max_cost=limit).networks
    assert all(p.relu_count <= 20_000 and cost(p) <= limit for p in few_relus)
    with pytest.raises(
        PlanError, match=r"no network has at most 1 ms; the smallest, .* and costs .*: raise max_cost"
    ):
        found_under(preset, max_cost=1e-3)


def _latency(preset: Preset, proposal: Proposal) -> float:
    return proposal.prices[preset.name].latency


def test_levers_that_save_too_little_are_not_pulled() -> None:
    preset = costing(query=1.0, comparisons=1e-9)
    with pytest.raises(PlanError, match=r"nothing to cull, thin or reshape \(one of its levers saves less than 5 %"):
        found_under(preset)
    # halving the resolution saves three quarters, each other lever two thirds or less
    assert {p.label for p in found_under(costing(comparisons=1e-6), gain=0.7).networks} == {"rho 0.5"}


def test_a_lever_that_changes_nothing_takes_no_network_away() -> None:
    """A depth that the network has already: the same networks as without it."""
    preset = costing(comparisons=1e-6)
    none, same = (
        LeversOptions(alphas=(1.0,), rhos=(1.0, 0.5), depths=depths, networks=1000) for depths in ((), ((2, 2, 2),))
    )
    plain, repeated = (propose_by_levers(network(), ORDER, options, context(preset)) for options in (none, same))
    assert {p.plan_id for p in repeated.networks} == {p.plan_id for p in plain.networks} != set()


def test_no_two_networks_are_the_same_and_each_costs_less_than_the_original() -> None:
    preset = Preset(model=MODELS["cheetah"], link=LINKS["lan"])
    found = found_under(preset).networks
    whole = prices_of(network(), [preset])[preset.name].latency
    assert len({p.plan_id for p in found}) == len(found)
    assert all(_latency(preset, p) < whole for p in found)


# -- criticality by cost ------------------------------------------------------------------------------------


def test_a_stage_costs_what_the_network_is_cheaper_without_it() -> None:
    original = network()
    assert stage_costs(original, COUNT_OF_RELUS, dict) == original.stage_relu_counts  # type: ignore[arg-type]
    preset = costing(comparisons=1e-6, query=1.0)
    costs = stage_costs(original, Objective(name="latency", preset=preset.name), pricing(preset))
    assert costs == {stage: pytest.approx(1e-6 * count) for stage, count in original.stage_relu_counts.items()}


def test_a_stage_that_costs_next_to_nothing_can_still_be_ranked() -> None:
    preset = costing(query=1.0)
    costs = stage_costs(network(), Objective(name="latency", preset=preset.name), pricing(preset))
    assert all(cost > 0 for cost in costs.values())
