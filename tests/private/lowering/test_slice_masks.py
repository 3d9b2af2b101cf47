"""Under a mask, what the mask keeps is compared and nothing else, in every form of masks and networks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.layers import RELU, Layer
from deepreduce.cost.link import LINKS
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.plan import ReductionPlan
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Lowered, lower
from deepreduce.sites import PixelMask
from deepreduce.transforms import apply_plan
from tests.helpers.actions import random_mask, random_plan
from tests.helpers.plain_engine import assert_agrees, calibrated, logits_of, lowered
from tests.helpers.zoo import TOYS
from tests.private.lowering.test_channel_order import KINDS, masked

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")

COMPARING = ("relu", "hardtanh", "clamp", "clamp_min")


def compared(found: Lowered) -> int:
    """The elements that enter the program's comparisons, by the shapes of its operations."""
    ops = (op for layer in found.program.layers for op in layer.ops)
    return sum(math.prod(op.shape) for op in ops if op.name in COMPARING)


def names(found: Lowered) -> list[str]:
    return [op.name for layer in found.program.layers for op in layer.ops]


@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_masked_network_compares_what_it_keeps(kind: str) -> None:
    for seed in (0, 1):
        network = masked(kind, seed)
        found = lowered(network)
        assert compared(found) == network.relu_count
        assert "where" not in names(found)
        assert_agrees(network, images=1)


@pytest.mark.parametrize("toy", ["basic", "bottleneck", "inverted", "pre-activation", "in-place, shared", "capped"])
@pytest.mark.parametrize("kind", ["channel_mask", "pixel_mask"])
def test_a_masked_toy_compares_what_it_keeps(toy: str, kind: str) -> None:
    network = apply_plan(TOYS[toy].network(), random_plan(TOYS[toy].network(), kind, 1))
    for batch in (1, 3):
        assert compared(lowered(network, batch=batch)) == batch * network.relu_count
    assert_agrees(network, images=1)
    assert_agrees(network, images=3)


class Masked(nn.Module):
    """A convolution to 24 channels, `call` with them and a mask, a classifier."""

    def __init__(self, call: Callable[[Tensor, Any], Tensor], mask: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.call = nn.Conv2d(3, 24, 3), nn.Linear(24, 3), call
        self.register_buffer("mask", mask)
        self.slopes, self.number = nn.Parameter(torch.randn(24, 1, 1)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.call(self.conv(x), self).mean((2, 3)))


FEW, MANY = torch.arange(24) % 12 < 5, torch.arange(24) % 2 == 0
PIXELS = random_mask((24, 6, 6), random.Random(0))
SELECTIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "relu": lambda x, net: torch.where(net.mask, F.relu(x), x),
    "the other way": lambda x, net: torch.where(net.mask, x, F.relu(x)),
    "a slope": lambda x, net: torch.where(net.mask, F.relu(x), net.slopes * x),
    "a polynomial": lambda x, net: torch.where(net.mask, F.relu6(x), net.slopes * (x * x) + net.number * x + 0.25),
    "two comparisons": lambda x, net: torch.where(net.mask, F.relu(x), F.relu(-x)),
}


def selection(name: str, mask: Tensor) -> Network:
    return trace_network(Masked(SELECTIONS[name], mask).eval(), (3, 8, 8))


@pytest.mark.parametrize("mask", [FEW[:, None, None], MANY[:, None, None], PIXELS], ids=["few", "many", "pixels"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_each_side_of_a_selection_is_computed_for_its_own_part(name: str, mask: Tensor) -> None:
    network = selection(name, mask)
    found = lowered(network)
    kept = int(mask.expand(24, 6, 6).sum())
    wanted = {"the other way": 864 - kept, "two comparisons": 864}.get(name, kept)
    assert compared(found) == wanted
    squared = [
        op for layer in found.program.layers for op in layer.ops if op.name == "mul" and op.args[0] == op.args[1]
    ]
    assert sum(math.prod(op.shape) for op in squared) == (864 - kept if name == "a polynomial" else 0)
    assert_agrees(network, images=1)


UNMOVED: list[Callable[[Tensor, Any], Tensor]] = [
    lambda x, net: (lambda y: torch.where(net.mask, y, x) + y)(F.relu(x)),  # something else reads the ReLU
    lambda x, net: torch.where(net.mask, F.relu(x), net.slopes),  # one side is a constant
    lambda x, net: torch.where(net.mask, F.relu(x.mean((2, 3), True)), x),  # one side is broadcast
]


@pytest.mark.parametrize("call", UNMOVED)
def test_what_can_not_be_computed_in_parts_is_selected_as_before(call: Callable[[Tensor, Any], Tensor]) -> None:
    network = trace_network(Masked(call, FEW[:, None, None]).eval(), (3, 8, 8))
    assert "where" in names(lowered(network)) or compared(lowered(network)) == 864
    assert_agrees(network, images=1)


def test_a_mask_that_keeps_nothing_leaves_nothing_to_compare() -> None:
    network = selection("relu", torch.zeros(24, 1, 1, dtype=torch.bool))
    assert compared(lowered(network)) == 0
    assert_agrees(network, images=1)


def pixels() -> Network:
    network = trace_network(calibrated(KINDS["trunk"](), (3, 8, 8)), (3, 8, 8))
    site = network.sites[0]
    mask = random_mask(site.shape, random.Random(1))
    return apply_plan(network, ReductionPlan(sites=((site.name, PixelMask.of(mask)),)))


@pytest.mark.parametrize(("rate", "gathers"), [(1e-9, True), (1.0, False)])
def test_elements_are_gathered_where_moving_them_costs_less_and_the_estimate_says_so(
    rate: float, gathers: bool
) -> None:
    network = pixels()
    masked_site, *others = network.sites

    def cost(layer: Layer) -> float:
        return 1e-3 * layer.comparisons + rate * layer.moved

    found = lower(prepare(network), cost=cost)
    elements = masked_site.relu_count if gathers else masked_site.elements
    assert compared(found) == elements + sum(site.elements for site in others)
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(logits_of(found, image).copy()), network.module(image), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("protocol", ["semi2k", "cheetah"])
def test_the_estimate_prices_what_the_lowering_compares(protocol: str) -> None:
    network, link = pixels(), LINKS["loopback"]
    model = MODELS[protocol]
    found = lower(prepare(network), cost=model.latency_of(link))
    run = [model.as_run(layer, link) for layer in layers_of(network)]
    assert sum(layer.comparisons for layer in run if layer.kind == RELU) == compared(found)
