"""Channels are ordered such that masks keep few runs, and the network computes what it did."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.private.lowering.channel_order import best_order, order_channels, run_count
from deepreduce.sites import ChannelMask
from deepreduce.sites.base import actions_in
from deepreduce.transforms import apply_plan
from tests.helpers.actions import random_mask
from tests.helpers.plain_engine import calibrated


class Trunk(nn.Module):
    """A residual trunk with two sites on it and one in each of two blocks."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(channels * 16, 3)
        self.inner = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(4))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in range(2):
            y = self.relus[2 * i](self.norms[2 * i](self.inner[i](x)))
            x = self.relus[2 * i + 1](x + self.norms[2 * i + 1](self.outer[i](y)))
        return self.fc(F.max_pool2d(x, 2).flatten(1))


class Dense(nn.Module):
    """Layers that read the concatenation of all before them, of which each has a batch-norm and a site."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6 * i, 6, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 * (i + 1)) for i in range(3))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.fc = nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts, y = [], x
        for conv, norm, relu in zip(self.convs, self.norms, self.relus, strict=True):
            parts.append(conv(y))
            y = relu(norm(torch.cat(parts, 1)))
        return self.fc(y.mean((2, 3)))


class Grouped(nn.Module):
    """An inverted bottleneck with a depthwise convolution, one with two groups, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 8, 1, groups=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 12), nn.ReLU(),
            nn.Linear(12, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Shuffled(nn.Module):
    """A channel shuffle between two sites."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 3)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relus[0](self.first(x))
        x = x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)
        return self.fc(self.relus[1](self.second(x)).mean((2, 3)))


KINDS = {"trunk": Trunk, "dense": Dense, "grouped": Grouped, "shuffled": Shuffled}


def masked(kind: str, seed: int) -> Network:
    """The network with a random channel mask at every site."""
    torch.manual_seed(seed)
    network = trace_network(calibrated(KINDS[kind](), (3, 8, 8)), (3, 8, 8))
    draw = random.Random(seed)
    plan = ReductionPlan(sites=tuple((s.name, ChannelMask.of(random_mask(s.shape[:1], draw))) for s in network.sites))
    return apply_plan(network, plan)


def runs_of(network: Network) -> dict[str, int]:
    """In how many runs each site keeps channels, by counting where one begins."""
    found = {}
    for name, action in actions_in(network).items():
        kept = action.tensor()
        assert kept is not None
        found[name] = sum(k and not before for k, before in zip(kept.tolist(), [False, *kept.tolist()], strict=False))
    return found


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_the_network_and_no_mask_keeps_more_or_fewer(kind: str, seed: int) -> None:
    network = masked(kind, seed)
    ordered = order_channels(network)
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ordered.module(image), network.module(image), rtol=1e-4, atol=1e-4)
    assert sum(runs_of(ordered).values()) <= sum(runs_of(network).values())
    for site in network.sites:
        action = actions_in(ordered)[site.name]
        assert action.relu_count(site) == site.relu_count


@pytest.mark.parametrize("seed", range(3))
def test_sites_in_blocks_and_on_a_trunk_keep_one_or_two_runs(seed: int) -> None:
    found = runs_of(order_channels(masked("trunk", seed)))
    assert [found[f"relus.{i}"] for i in (0, 2)] == [1, 1]
    assert sorted(found[f"relus.{i}"] for i in (1, 3)) in ([1, 1], [1, 2])


def test_behind_a_channel_shuffle_nothing_moves() -> None:
    network = masked("shuffled", 0)
    ordered = order_channels(network)
    assert torch.equal(ordered.module.first.weight, network.module.first.weight)
    assert runs_of(ordered)["relus.1"] <= runs_of(network)["relus.1"]


def test_a_network_without_masks_is_left_as_it_is() -> None:
    network = trace_network(Trunk().eval(), (3, 8, 8))
    assert order_channels(network) is network


@given(kept=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12))
def test_an_order_is_a_permutation_with_no_more_runs_and_one_mask_has_one(kept: list[list[bool]]) -> None:
    rows = np.array(kept)
    order = best_order(rows)
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert run_count(rows[order]) <= run_count(rows)
    single = rows[:, :1]
    assert run_count(single[best_order(single)]) == int(single.any())


def test_two_masks_of_any_channels_keep_at_most_two_runs() -> None:
    for patterns in itertools.product([(False, False), (False, True), (True, False), (True, True)], repeat=4):
        rows = np.array(patterns)
        assert run_count(rows[best_order(rows)]) <= 2
