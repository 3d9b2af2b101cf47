"""A network that inherits is its parent where nothing more is removed, and the part of it that stays elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepreduce.errors import PlanError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import ChannelMask, PixelMask
from deepreduce.transforms import apply_plan, can_warm_start, cull_plan, normalise_plan, thin_plan, warm_start
from deepreduce.transforms.width.cut import narrow
from tests.helpers.zoo import REDUCIBLE, TOYS


def trained(network: Network, plan: ReductionPlan, *, seed: int = 5) -> Network:
    """The network reduced by `plan`, with weights and statistics that no initialisation gives."""
    reduced = apply_plan(network, plan)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in reduced.module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    return reduced


def weights_of(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.module.state_dict().items()}


def logits(network: Network) -> Tensor:
    network.module.eval()
    images = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network.module(images)


def zoo_network(name: str) -> Network:
    spec = resolve_spec(name, num_classes=5, width=4)
    return trace_network(build_model(spec), (3, 16, 16), spec=spec)


def without(network: Network, count: int, **scales: Any) -> ReductionPlan:
    """The plan without the first `count` ReLUs."""
    return ReductionPlan(sites=tuple((site.name, "identity") for site in network.sites[:count]), **scales)


# -- nothing more is removed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REDUCIBLE)
def test_a_network_of_its_parents_plan_answers_what_the_parent_does(name: str) -> None:
    network = TOYS[name].network()
    for plan in (ReductionPlan(), without(network, 1)):
        if name == "wrapped" and plan.sites:
            continue
        parent = trained(network, plan)
        child = warm_start(network, plan, parent=plan, weights=weights_of(parent))
        assert child.relu_count == parent.relu_count
        assert torch.equal(logits(child), logits(parent))


RESHAPED = [ReductionPlan(alpha=0.5), ReductionPlan(rho=0.5), ReductionPlan(alpha=0.5, rho=0.5)]
SHALLOW = [replace(plan, depth=(1, 1, 1, 1)) for plan in (ReductionPlan(), *RESHAPED)]


@pytest.mark.parametrize(
    ("name", "plan"), [("toy", p) for p in RESHAPED] + [("resnet18", p) for p in (*RESHAPED, *SHALLOW)], ids=repr
)
def test_a_reshaped_network_of_its_parents_plan_answers_what_the_parent_does(name: str, plan: ReductionPlan) -> None:
    network = zoo_network("resnet18") if name == "resnet18" else TOYS["basic"].network()
    plan = plan.merge(without(network, 2)) if plan.depth is None else plan
    parent = trained(network, plan)
    child = warm_start(network, plan, parent=plan, weights=weights_of(parent))
    assert child.relu_count == parent.relu_count and child.macs == parent.macs
    assert torch.equal(logits(child), logits(parent))


def test_a_network_padded_once_of_its_parents_plan_answers_what_the_parent_does() -> None:
    network = zoo_network("resnet20")
    plan = cull_plan(network, ["S1"]).merge(ReductionPlan(pad_once=True))
    parent = trained(network, plan)
    assert parent.is_padded_once
    child = warm_start(network, plan, parent=plan, weights=weights_of(parent))
    assert torch.equal(logits(child), logits(parent))


# -- more is removed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["basic", "bottleneck", "inverted", "pre-activation", "shared module", "chain"])
def test_a_network_with_fewer_relus_is_its_parent_with_those_taken_out(name: str) -> None:
    network = TOYS[name].network()
    parent_plan, plan = without(network, 1), without(network, 2)
    parent = trained(network, parent_plan)
    child = warm_start(network, plan, parent=parent_plan, weights=weights_of(parent))
    # by hand: the original with the parent's weights, less its ReLUs
    by_hand = trace_network(TOYS[name].build(), network.input_shape)
    by_hand.module.load_state_dict(weights_of(parent))
    expected = apply_plan(by_hand, plan)
    assert child.relu_count == expected.relu_count < parent.relu_count
    assert torch.equal(logits(child), logits(expected))


@pytest.mark.parametrize("name", ["resnet18", "toy"])
def test_a_masked_network_starts_from_one_of_larger_masks_and_the_most_important_channels_of_a_wider_one(
    name: str,
) -> None:
    network = zoo_network("resnet18") if name == "resnet18" else TOYS["basic"].network()

    def masks(count: int, whole: Network, **scales: Any) -> ReductionPlan:
        sites = {site.name: ChannelMask.of(torch.arange(site.shape[0]) < count) for site in whole.sites}
        return ReductionPlan(sites=tuple(sites.items()), **scales)

    parent = trained(network, masks(3, network))
    child = warm_start(network, masks(1, network), parent=masks(3, network), weights=weights_of(parent))
    expected = apply_plan(parent, masks(1, network))
    assert child.relu_count == expected.relu_count and torch.equal(logits(child), logits(expected))
    full = trained(network, ReductionPlan())
    half = apply_plan(network, ReductionPlan(alpha=0.5))
    narrower = warm_start(network, masks(1, half, alpha=0.5), parent=ReductionPlan(), weights=weights_of(full))
    unmasked = warm_start(network, ReductionPlan(alpha=0.5), parent=ReductionPlan(), weights=weights_of(full))
    assert torch.equal(logits(narrower), logits(apply_plan(unmasked, masks(1, half))))


def test_a_smaller_resolution_keeps_all_weights() -> None:
    network = TOYS["basic"].network()
    parent = trained(network, ReductionPlan())
    child = warm_start(network, ReductionPlan(rho=0.5), parent=ReductionPlan(), weights=weights_of(parent))
    assert all(torch.equal(t, weights_of(parent)[name]) for name, t in child.module.state_dict().items())
    assert child.macs < parent.macs


def test_a_dropped_block_leaves_the_others_their_weights() -> None:
    network = zoo_network("resnet18")
    parent = trained(network, ReductionPlan())
    child = warm_start(network, ReductionPlan(depth=(1, 1, 1, 1)), parent=ReductionPlan(), weights=weights_of(parent))
    known, own = weights_of(parent), child.module.state_dict()
    assert own and own.keys() < known.keys()
    assert all(torch.equal(tensor, known[name]) for name, tensor in own.items())


# -- fewer channels -------------------------------------------------------------------------------------------


def convolutions(network: Network) -> Mapping[str, Tensor]:
    return {
        f"{name}.weight": module.weight.detach()
        for name, module in network.module.named_modules()
        if isinstance(module, nn.Conv2d)
    }


@pytest.mark.parametrize(
    "build", [lambda: zoo_network("resnet18"), lambda: TOYS["chain"].network()], ids=["zoo", "toy"]
)
def test_the_most_important_channels_are_inherited(build: Any) -> None:
    network = build()
    parent = trained(network, ReductionPlan())
    # the last channels of the first layer are what matters, by far
    first = next(iter(convolutions(parent)))
    with torch.no_grad():
        parent.module.state_dict()[first][-2:] *= 100
    weights = weights_of(parent)
    child = warm_start(network, ReductionPlan(alpha=0.5), parent=ReductionPlan(), weights=weights)
    inherited = child.module.state_dict()[first]
    assert inherited.shape[0] == 2
    assert torch.equal(inherited, weights[first][-2:])
    # and all layers agree on which channels they mean
    source = trace_network(network.module, network.input_shape, spec=network.spec)
    source.module.load_state_dict(weights)
    expected = narrow(source, 0.5)[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in child.module.state_dict().items())


def test_what_the_parent_has_no_weights_for_follows_from_the_seed() -> None:
    network = TOYS["basic"].network()
    weights = weights_of(trained(network, ReductionPlan()))
    del weights["fc.weight"]
    children = [warm_start(network, ReductionPlan(), parent=ReductionPlan(), weights=weights) for _ in range(2)]
    assert torch.equal(logits(children[0]), logits(children[1]))
    own = network.module.state_dict()
    assert torch.equal(children[0].module.state_dict()["fc.weight"], own["fc.weight"])


def test_the_original_and_the_weights_given_stay_as_they_were() -> None:
    network = TOYS["basic"].network()
    before = weights_of(network)
    weights = weights_of(trained(network, ReductionPlan()))
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    for plan in (ReductionPlan(), without(network, 2), ReductionPlan(alpha=0.5)):
        child = warm_start(network, plan, parent=ReductionPlan(), weights=weights)
        with torch.no_grad():
            for tensor in child.module.state_dict().values():
                tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights.items())


# -- refusals -------------------------------------------------------------------------------------------------

A, B = (("a", "identity"),), (("b", "identity"),)
TWO, ONE = (("a", ChannelMask.of([True, True, False])),), (("a", ChannelMask.of([False, True, False])),)
PIXEL = (("a", PixelMask.of(torch.arange(12).view(3, 2, 2) == 5)),)  # of the second channel


@pytest.mark.parametrize(
    ("plan", "parent", "able"),
    [
        ({}, {}, True),
        ({"sites": A}, {}, True),
        ({"sites": A + B}, {"sites": A}, True),
        ({}, {"sites": A}, False),  # the parent has weights for no ReLU there
        ({"sites": B}, {"sites": A}, False),
        ({"alpha": 0.5}, {}, True),
        ({"alpha": 0.5}, {"alpha": 0.5}, True),
        ({"alpha": 0.25}, {"alpha": 0.5}, False),  # which half of which quarter?
        ({}, {"alpha": 0.5}, False),
        ({"rho": 0.5}, {}, True),
        ({"rho": 0.25}, {"rho": 0.5}, True),
        ({}, {"rho": 0.5}, False),
        ({"depth": (1, 1)}, {}, True),
        ({"depth": (1, 1)}, {"depth": (1, 1)}, True),
        ({"depth": (1, 1)}, {"depth": (2, 1)}, False),
        ({}, {"depth": (1, 1)}, False),
        ({"pad_once": True}, {}, True),
        ({"pad_once": True}, {"pad_once": True}, True),
        ({}, {"pad_once": True}, False),
        ({"sites": TWO}, {}, True),
        ({"sites": ONE}, {"sites": TWO}, True),
        ({"sites": TWO}, {"sites": TWO}, True),
        ({"sites": PIXEL}, {"sites": ONE}, True),
        ({"sites": A}, {"sites": PIXEL}, True),
        ({"sites": TWO}, {"sites": ONE}, False),
        ({"sites": TWO}, {"sites": A}, False),
        ({"sites": ONE}, {"sites": PIXEL}, False),
        ({}, {"sites": TWO}, False),
        ({"alpha": 0.5, "sites": (("a", ChannelMask.of([True, False])),)}, {}, True),
        ({"alpha": 0.5, "sites": (("a", ChannelMask.of([True, False])),)}, {"sites": TWO}, False),  # which channels?
    ],
)
def test_a_network_inherits_where_all_that_it_has_is_in_its_parent(
    plan: dict[str, Any], parent: dict[str, Any], able: bool
) -> None:
    assert can_warm_start(ReductionPlan(**plan), ReductionPlan(**parent)) is able


@pytest.mark.parametrize("name", ["basic", "chain"])
def test_every_plan_inherits_from_the_full_network_and_from_itself(name: str) -> None:
    network = TOYS[name].network()
    thinned = normalise_plan(network, thin_plan(network, stages=network.stages, keep="first"))
    for plan in (thinned, without(network, 1), ReductionPlan(alpha=0.5, rho=0.5)):
        assert can_warm_start(plan, ReductionPlan()) and can_warm_start(plan, plan)


def test_a_parent_that_lacks_something_is_refused_with_both_plans() -> None:
    network = TOYS["basic"].network()
    parent = without(network, 1)
    with pytest.raises(
        PlanError, match=r"ReductionPlan\(.*\) can't inherit from ReductionPlan\(.*, which lacks ReLUs"
    ):
        warm_start(network, ReductionPlan(), parent=parent, weights=weights_of(network))


@pytest.mark.parametrize("plan", [ReductionPlan(), ReductionPlan(alpha=0.5)], ids=repr)
def test_weights_of_another_network_are_refused(plan: ReductionPlan) -> None:
    network = TOYS["basic"].network()
    narrow = weights_of(apply_plan(network, ReductionPlan(alpha=0.25)))
    for weights in (narrow, {"nothing.weight": torch.zeros(2)}, {}):
        with pytest.raises(PlanError, match="the weights to inherit are of another network"):
            warm_start(network, plan, parent=plan, weights=weights)
