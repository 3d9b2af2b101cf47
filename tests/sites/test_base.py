"""The registry of actions, their JSON, and how the graph is changed around a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from deepreduce.network import ReluSite, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, KEEP, ChannelMask, SiteAction, actions_in
from deepreduce.sites.layers import MaskedRelu
from deepreduce.transforms import apply_plan
from tests.helpers.actions import FirstChannels
from tests.helpers.zoo import TOYS, conv


@dataclass(frozen=True)
class Elsewhere(SiteAction):
    """An action of another package."""

    kind: ClassVar[str] = "elsewhere"

    def relu_count(self, site: ReluSite) -> int:
        """Return 0."""
        return 0


def test_an_action_without_fields_is_its_kind_and_one_with_fields_an_object() -> None:
    assert Elsewhere().to_json() == "elsewhere"
    assert FirstChannels(3).to_json() == {"kind": "first_channels", "count": 3}
    assert FirstChannels.from_json({"count": 3}, None) == FirstChannels(3)


def test_an_action_that_says_nothing_of_its_units_contains_the_identity_and_itself_alone() -> None:
    two, three = FirstChannels(2), FirstChannels(3)
    assert two.within(two) and not two.within(three) and not three.within(two)
    assert IDENTITY.within(two) and two.within(KEEP) and not KEEP.within(two) and not two.within(IDENTITY)
    assert not two.within(ChannelMask.of([True, True, False])) and not ChannelMask.of([True, False]).within(two)


def test_an_action_without_a_layer_says_what_it_lacks() -> None:
    network = TOYS["basic"].network()
    with pytest.raises(NotImplementedError, match="Elsewhere defines neither layer nor rewrite"):
        apply_plan(network, ReductionPlan(sites=((network.sites[0].name, Elsewhere()),)))


class Alike(nn.Module):
    """Two sites whose names differ in what no identifier may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.a_b = conv(3, 4), nn.Module(), nn.ReLU()
        self.a.b = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.a_b(self.conv(self.a.b(self.conv(x)[:, :3]))).mean((2, 3))


def test_each_site_has_a_layer_of_its_own_under_a_path_that_follows_from_its_name() -> None:
    network = trace_network(Alike(), (3, 8, 8))
    masks = {site.name: ChannelMask.of(torch.arange(site.shape[0]) == 0) for site in network.sites}
    masked = apply_plan(network, ReductionPlan(sites=tuple(masks.items())))
    assert list(masks) == ["a.b", "a_b"] and actions_in(masked) == masks
    paths = [name for name, layer in masked.module.named_modules() if isinstance(layer, MaskedRelu)]
    assert paths == ["site_a_b", "site_a_b_2"]
    assert masked.relu_count == 2 * 8 * 8


def test_another_action_at_the_same_site_takes_the_place_of_the_first() -> None:
    network = TOYS["basic"].network()
    name = network.sites[0].name
    masks = [[True, True, False, True], [True, False, False, False]]
    plans = [ReductionPlan(sites=((name, ChannelMask.of(mask)),)) for mask in masks]
    once = apply_plan(network, plans[1])
    twice = apply_plan(apply_plan(network, plans[0]), plans[1])
    assert actions_in(twice) == actions_in(once) and twice.relu_count == once.relu_count
    layers = [path for path, layer in twice.module.named_modules() if isinstance(layer, MaskedRelu)]
    assert layers == [f"site_{name}"]
