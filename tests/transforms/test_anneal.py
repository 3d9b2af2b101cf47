"""A network whose ReLUs fade is the original's at first, the reduced one at the end, and has the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, ChannelMask
from deepreduce.transforms import anneal, apply_plan, cull_plan
from tests.helpers.actions import FirstChannels, random_plan
from tests.helpers.zoo import REDUCIBLE, TOYS

OVERWRITTEN = {"in-place", "in-place, shared", "overwriting"}
"""Toys of which a ReLU overwrites what others read."""


def logits(module: nn.Module, network: Network) -> Tensor:
    images = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return module.eval()(images)


def without_all(network: Network) -> ReductionPlan:
    return ReductionPlan(sites=tuple((site.name, "identity") for site in network.sites))


@pytest.mark.parametrize("name", REDUCIBLE)
def test_it_begins_as_the_original_and_ends_as_the_reduced_network(name: str) -> None:
    network = TOYS[name].network()
    plan = without_all(network)
    faded = anneal(network, plan)
    if faded is None:
        assert name in OVERWRITTEN
        return
    reduced = apply_plan(network, plan)
    assert faded.module.state_dict().keys() == reduced.module.state_dict().keys()
    if all(site.kind == "relu" for site in network.sites):
        assert torch.equal(logits(faded.module, network), logits(network.module, network))
    faded.advance(1.0)
    assert torch.equal(logits(faded.module, network), logits(reduced.module, network))
    assert len(faded.layers) == len(network.sites)


def test_between_them_negative_values_are_scaled() -> None:
    network = TOYS["basic"].network()
    faded = anneal(network, without_all(network))
    assert faded is not None
    x = torch.tensor([-2.0, 3.0])
    for share, expected in ((0.25, -0.5), (-1.0, 0.0), (7.0, -2.0)):
        faded.advance(share)
        assert all(torch.equal(relu(x), torch.tensor([expected, 3.0])) for relu in faded.layers)


def test_what_its_start_has_lost_is_gone_at_once() -> None:
    network = TOYS["basic"].network()
    first, second = network.stages[:2]
    start, plan = cull_plan(network, [first]), cull_plan(network, [first, second])
    faded = anneal(network, plan, start=start)
    assert faded is not None and len(faded.layers) == sum(site.stage == second for site in network.sites)
    assert torch.equal(logits(faded.module, network), logits(apply_plan(network, start).module, network))
    faded.advance(1.0)
    assert torch.equal(logits(faded.module, network), logits(apply_plan(network, plan).module, network))
    assert anneal(network, plan, start=plan) is None


def test_a_mask_leads_on_from_the_larger_mask_of_its_start_unless_that_has_another_shape() -> None:
    network = TOYS["basic"].network()
    site = network.sites[0]
    larger, smaller = (
        ReductionPlan(sites={site.name: ChannelMask.of(torch.arange(site.shape[0]) < site.shape[0] // n)})
        for n in (2, 4)
    )
    faded = anneal(network, smaller, start=larger)
    assert faded is not None
    assert torch.equal(logits(faded.module, network), logits(apply_plan(network, larger).module, network))
    narrow = ReductionPlan(sites={site.name: IDENTITY}, alpha=0.5)
    assert anneal(network, narrow, start=larger) is None


def test_only_the_relus_that_the_plan_drops_fade_and_other_edits_are_there_at_once() -> None:
    network = TOYS["basic"].network()
    stage = network.stages[0]
    plan = cull_plan(network, [stage]).merge(ReductionPlan(alpha=0.5))
    faded = anneal(network, plan)
    assert faded is not None
    assert len(faded.layers) == len(network.sites_of(stage))
    reduced = apply_plan(network, plan)
    shapes = {name: value.shape for name, value in reduced.module.state_dict().items()}
    assert {name: value.shape for name, value in faded.module.state_dict().items()} == shapes


@pytest.mark.parametrize("name", REDUCIBLE)
def test_masks_lead_from_the_original_to_the_masked_network_through_their_removed_units(name: str) -> None:
    network = TOYS[name].network()
    plan = random_plan(network, "channel_mask", 0)
    faded = anneal(network, plan)
    if faded is None:
        assert name in OVERWRITTEN or not plan.sites
        return
    if all(site.kind == "relu" for site in network.sites):
        assert torch.equal(logits(faded.module, network), logits(network.module, network))
    faded.advance(1.0)
    assert torch.equal(logits(faded.module, network), logits(apply_plan(network, plan).module, network))


def test_a_mask_that_shrinks_fades_only_what_it_loses() -> None:
    network = TOYS["basic"].network()
    two, one = (
        ReductionPlan(sites=(("relu", ChannelMask.of(mask)),))
        for mask in ([True, True, False, False], [True, False, False, False])
    )
    masked = apply_plan(network, two)
    faded = anneal(masked, one)
    assert faded is not None
    assert torch.equal(logits(faded.module, network), logits(masked.module, network))
    faded.advance(1.0)
    assert torch.equal(logits(faded.module, network), logits(apply_plan(network, one).module, network))
    assert anneal(masked, two) is None  # nothing changes


def test_an_action_that_has_no_gradual_way_is_not_annealed() -> None:
    network = TOYS["basic"].network()
    plan = ReductionPlan(sites=(("relu", FirstChannels(2)), (network.sites[1].name, IDENTITY)))
    assert anneal(network, plan) is None
    sliced = apply_plan(network, ReductionPlan(sites=(("relu", FirstChannels(2)),)))
    assert anneal(sliced, ReductionPlan(sites=(("relu", IDENTITY),))) is None


def test_a_plan_that_drops_no_relu_or_pads_once_has_nothing_to_fade() -> None:
    network = TOYS["basic"].network()
    assert anneal(network, ReductionPlan(alpha=0.5)) is None
    assert anneal(network, cull_plan(network, [network.stages[0]]).merge(ReductionPlan(pad_once=True))) is None
