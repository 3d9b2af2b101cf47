"""Which pieces of a region are merged: the cheapest choice under the given cost."""

from __future__ import annotations

from deepreduce.transforms import collapse, cull, pad_once
from tests.helpers.linear_nets import resnet18


def test_a_region_that_one_convolution_would_make_more_expensive_is_left_as_it_is() -> None:
    network = cull(resnet18(device="meta"), ["S2"])
    s2 = max(collapse(network).regions, key=lambda report: report.layers_before)
    assert s2.outcome == "not cheaper" and "one 15x15 convolution from 64 channels would take" in s2.reason
    assert collapse(network).network.macs == network.macs


def test_what_s1_makes_is_chosen_by_the_cost_that_is_given() -> None:
    network = pad_once(cull(resnet18(device="meta"), ["S1"]))
    small = collapse(network, cost=lambda layer: layer.macs if max(layer.kernel) <= 3 else 1e12).network
    assert len(small.linear_layers) == len(network.linear_layers)
