"""Networks whose masks are learned: they compute, count and name what a plan of the same masks makes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from deepreduce.methods.mask_learning import Unit, choose, expected_plan, keep_best, learnable
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import ChannelMask
from deepreduce.transforms import apply_plan
from tests.helpers.independent import executed_relus
from tests.helpers.zoo import TOYS

BASIC = TOYS["basic"].network()
SHAPE = (2, *BASIC.input_shape)
UNITS: list[Unit] = ["channel", "pixel"]


def images(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def random_scores(network: Any, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(layer.mask.shape, generator=draw) for name, layer in network.layers.items()}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", sorted(TOYS))
def test_what_is_learned_is_the_network_of_the_learned_plan(name: str, unit: Unit) -> None:
    original = TOYS[name].network()
    network = learnable(original, ReductionPlan(), unit=unit)
    assert network.relu_count == original.relu_count and network.plan().is_empty
    keep_best(network, random_scores(network), original.relu_count // 3)
    plan = network.plan()
    reduced = apply_plan(original, plan)
    assert network.relu_count == reduced.relu_count <= original.relu_count // 3
    assert sum(executed_relus(reduced.module, original.input_shape)) >= reduced.relu_count  # masks compare all
    reduced.module.load_state_dict(network.module.state_dict())
    x = torch.randn(2, *original.input_shape, generator=torch.Generator().manual_seed(1))
    for module in (network.module, reduced.module):
        module.eval()
    assert torch.equal(network.module(x), reduced.module(x))


@pytest.mark.parametrize("unit", UNITS)
def test_gradients_are_those_of_the_network_of_the_plan(unit: Unit) -> None:
    network = learnable(BASIC, ReductionPlan(), unit=unit)
    keep_best(network, random_scores(network), BASIC.relu_count // 2)
    reduced = apply_plan(BASIC, network.plan())
    gradients = []
    for module in (network.module, reduced.module):
        module.train()
        module.zero_grad()
        module(images()).square().sum().backward()
        gradients.append([p.grad for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None or b is not None)


def test_masks_begin_as_the_plan_says_and_only_shrink() -> None:
    site = BASIC.sites[0]
    given_mask = torch.zeros(site.shape[0], dtype=torch.bool)
    given_mask[1] = True
    plan = ReductionPlan(sites=((site.name, ChannelMask.of(given_mask)), (BASIC.sites[1].name, "identity")))
    network = learnable(BASIC, plan, unit="channel")
    assert network.plan() == plan and network.relu_count == apply_plan(BASIC, plan).relu_count
    before = {name: layer.mask.clone() for name, layer in network.layers.items()}
    for budget in (network.relu_count // 2, network.relu_count // 4, 0):
        keep_best(network, random_scores(network, budget), budget)
        assert network.relu_count <= budget
        for name, layer in network.layers.items():
            assert not bool((layer.mask & ~before[name]).any())
            before[name] = layer.mask.clone()
    assert set(dict(network.plan().sites)) == {s.name for s in BASIC.sites} and network.relu_count == 0


def test_the_original_stays_as_it_is() -> None:
    before = copy.deepcopy(BASIC.module.state_dict())
    code = BASIC.module.code
    network = learnable(BASIC, ReductionPlan(), unit="channel")
    keep_best(network, random_scores(network), 10)
    network.module.train()(images()).sum().backward()
    assert BASIC.module.code == code
    assert all(torch.equal(v, before[k]) for k, v in BASIC.module.state_dict().items())


def test_a_site_that_no_mask_fits_is_kept_or_lost_as_a_whole() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.relu(self.fc(self.conv(x).flatten(2).transpose(1, 2)))  # (batch, positions, 6)
            out: Tensor = self.last(tokens.mean(1))
            return out

    network: Network = trace_network(Pooled(), (3, 6, 6))
    (site,) = network.sites
    assert site.shape == (16, 6)
    learned = learnable(network, ReductionPlan(), unit="channel")
    (layer,) = learned.layers.values()
    assert layer.mask.shape == () and layer.cost == 96
    keep_best(learned, {site.name: torch.tensor(1.0)}, 95)
    assert dict(learned.plan().sites)[site.name].kind == "identity"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_best_units_that_fit_are_kept(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    worth = np.array(data.draw(st.lists(st.floats(0, 10), min_size=count, max_size=count)))
    costs = np.array(data.draw(st.lists(st.sampled_from([1, 2, 4, 16]), min_size=count, max_size=count)))
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    budget = data.draw(st.integers(0, 60))
    kept = choose(worth, costs, alive, budget)
    assert not (kept & ~alive).any() and costs[kept].sum() <= budget
    left = budget - costs[kept].sum()
    if not left:
        return  # perhaps by an exchange
    for unit in np.flatnonzero(alive & ~kept):
        assert costs[unit] > left  # nothing more fits
        # and no kept units could be given up for it so that the budget is met exactly
        assert costs[unit] - left not in sums_of(costs[kept])
        # what was kept of less worth did not fit in its place when its turn came
        better = kept & (worth >= worth[unit])
        assert costs[better].sum() + costs[unit] > budget or worth[unit] in worth[kept]


def sums_of(values: NDArray[np.int64]) -> set[int]:
    sums = {0}
    for value in values:
        sums |= {before + int(value) for before in sums}
    return sums


def test_the_budget_is_met_exactly_by_the_exchange_that_costs_least() -> None:
    worth, costs = np.array([5.0, 4.0, 3.0, 2.0, 9.0]), np.array([4, 2, 2, 1, 1])
    alive = np.ones(5, np.bool_)
    # 9 of 10 ReLUs: 1 + 4 + 2 + 2 without the unit of worth 2
    assert choose(worth, costs, alive, 9).tolist() == [True, True, True, False, True]
    # 5 of them: 1 + 4, and no exchange is needed
    assert choose(worth, costs, alive, 5).tolist() == [True, False, False, False, True]
    # with 16 beside them, 17 ReLUs can't hold both it and more than one; all others are given up for it
    worth, costs = np.append(worth, 1.0), np.append(costs, 16)
    assert choose(worth, costs, np.ones(6, np.bool_), 17).tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize("unit", UNITS)
def test_an_expected_plan_has_as_many_relus_as_the_budget_allows(unit: Unit) -> None:
    largest = max(site.relu_count // site.shape[0] for site in BASIC.sites)
    for budget in (BASIC.relu_count - 1, BASIC.relu_count // 2, BASIC.relu_count // 10):
        count = apply_plan(BASIC, expected_plan(BASIC, ReductionPlan(), unit=unit, budget=budget)).relu_count
        assert count == budget if unit == "pixel" else budget - largest < count <= budget
