"""Collapsing changes no logit, and padding once makes whole regions collapse."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepreduce.errors import PlanError
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, collapse, cull, cull_plan, pad_once
from tests.helpers.actions import EXAMPLES
from tests.helpers.independent import executed_macs
from tests.helpers.linear_nets import (
    SIZES,
    Drawn,
    Function,
    drawing,
    drawn_network,
    error,
    fewest_layers,
    linear_nodes,
    logits,
    odd_regions,
    only,
    padded,
    regions,
    resnet18,
    sequence,
)
from tests.helpers.zoo import TOYS


def linear_calls(network: Network) -> list[str]:
    """What stands between the two ReLUs."""
    names = [node.name for node in network.module.graph.nodes]
    return names[names.index("relu1") + 1 : names.index("relu2")]


@drawing
@given(regions, st.sampled_from(SIZES), st.booleans())
def test_collapsing_changes_no_logit(drawn: Drawn, size: int, free: bool) -> None:
    network = drawn_network(drawn, size)
    collapsed = collapse(network, **({"cost": fewest_layers} if free else {})).network  # type: ignore[arg-type]
    assert error(network, collapsed) < 1e-4
    assert free or collapsed.macs <= network.macs
    assert executed_macs(collapsed.as_module(), network.input_shape) == collapsed.macs
    assert [(s.name, s.stage, s.shape) for s in collapsed.sites] == [
        (s.name, s.stage, s.shape) for s in network.sites
    ]


@drawing
@given(odd_regions, st.sampled_from(SIZES), st.booleans())
def test_collapsing_changes_no_logit_whatever_pads_runs_hooks_or_is_a_function(
    drawn: Drawn, size: int, once: bool
) -> None:
    network = drawn_network(drawn, size)
    if once:
        try:
            network = pad_once(network, cost=fewest_layers)
        except PlanError:
            pass
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-4


@drawing
@given(regions, st.sampled_from(SIZES))
def test_a_region_padded_once_becomes_one_convolution_and_no_logit_changes(drawn: Drawn, size: int) -> None:
    network = drawn_network(drawn, size)
    try:
        padded = pad_once(network, cost=fewest_layers)
    except PlanError:  # it collapses as it is, or is padding alone
        padded = network
    collapsed = collapse(padded, cost=fewest_layers).network
    assert error(padded, collapsed) < 1e-4
    calls = linear_calls(collapsed)
    is_padding = all(kind in ("pad", "dropout") for kind, _ in drawn)
    assert is_padding or len([name for name in calls if not name.startswith("pad")]) == 1, calls


# -- ResNet-18 ----------------------------------------------------------------------------------------------


def test_the_stem_and_s1_of_resnet18_become_one_11x11_convolution_from_the_image() -> None:
    network = apply_plan(resnet18(), padded(cull_plan(resnet18(device="meta"), ["S1"])))
    collapsed = collapse(network)
    (whole, *folded) = collapsed.regions
    assert whole.outcome == "collapsed" and whole.layers_after == 1
    layer = collapsed.network.linear_layers[0]
    convolution = collapsed.network.module.get_submodule(layer.name)
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.shape == (64, 3, 11, 11) and convolution.padding == (5, 5)
    assert layer.macs == 3 * 64 * 11 * 11 * 32 * 32 == 23_789_568
    assert error(network, collapsed.network) < 1e-4
    assert all(report.outcome == "collapsed" for report in folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in collapsed.network.module.modules())


def test_without_padding_once_the_stem_and_s1_of_resnet18_are_refused_and_its_notes_say_why() -> None:
    network = cull(resnet18(device="meta"), ["S1"])
    collapsed = collapse(network)
    stem_and_s1 = (3 * 64 + 4 * 64 * 64) * 9 * 32 * 32
    whole = collapsed.regions[0]
    assert (whole.outcome, whole.macs_before, whole.macs_after) == ("refused", stem_and_s1, stem_and_s1)
    assert "stage1.0.conv1 pads stem.bn with zeros; train it padded once" in whole.reason
    assert any("11x11 convolution from 3 channels would differ" in note for note in collapsed.network.notes)
    assert collapsed.network.macs == network.macs


# -- what is exact and what is not --------------------------------------------------------------------------


def test_a_1x1_without_a_bias_merges_into_the_padded_convolution_behind_it() -> None:
    network = sequence(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 3, padding=1))
    assert only(network).outcome == "collapsed"
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-5


def test_a_bias_that_a_later_layer_pads_with_zeros_is_refused() -> None:
    network = sequence(nn.Conv2d(3, 4, 1, bias=True), nn.Conv2d(4, 2, 3, padding=1))
    assert only(network).outcome == "refused" and "layers.2 pads layers.1 with zeros" in only(network).reason


def test_a_batch_norm_before_a_padded_convolution_is_refused_and_one_behind_it_folded() -> None:
    before = sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3, padding=1))
    assert only(before).outcome == "refused"
    behind = sequence(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2))
    folded = collapse(behind).network
    assert [layer.name for layer in folded.linear_layers] == ["layers.1"]
    assert error(behind, folded) < 1e-5


def test_a_region_that_ends_in_one_position_is_exact_whatever_is_padded_inside() -> None:
    network = sequence(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    )
    collapsed = collapse(network, cost=fewest_layers)
    assert collapsed.regions[0].outcome == "collapsed"
    assert collapsed.network.module.get_submodule(collapsed.network.linear_layers[0].name).kernel_size == (8, 8)
    assert error(network, collapsed.network) < 1e-5


def test_depthwise_layers_stay_depthwise() -> None:
    network = sequence(nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3), nn.AvgPool2d(2))
    collapsed = collapse(network, cost=fewest_layers).network
    assert collapsed.module.get_submodule(collapsed.linear_layers[0].name).groups == 3
    assert error(network, collapsed) < 1e-5


def test_functions_collapse_like_the_modules_that_call_them() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Identity(), nn.Conv2d(4, 4, 3)]
    network = sequence(*(Function(layer) for layer in layers))
    collapsed = collapse(network, cost=fewest_layers).network
    assert len(collapsed.linear_layers) == 1 and len(linear_nodes(collapsed)) == 1
    assert error(network, collapsed) < 1e-5


def test_a_function_that_pads_what_a_layer_has_made_is_not_merged_with_it_and_not_padded_once() -> None:
    network = sequence(nn.BatchNorm2d(3), Function(nn.Conv2d(3, 4, 3, padding=1)), nn.BatchNorm2d(4))
    (report,) = collapse(network, cost=fewest_layers).regions
    assert (report.entry, report.outcome) == ("layers_1", "collapsed")  # the first batch-norm stays
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-5
    with pytest.raises(PlanError, match="no linear region that padding once would make cheaper"):
        pad_once(network, cost=fewest_layers)


def test_a_layer_that_is_called_elsewhere_too_keeps_its_padding_and_the_reason_is_told() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu1, self.relu2 = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu1(self.conv(self.conv(x)))
            return self.relu2(self.conv(x)).mean((2, 3))

    network = trace_network(Shared().eval(), (3, 8, 8))
    report = only(network)
    assert report.outcome == "refused" and "called elsewhere too" in report.reason
    with pytest.raises(PlanError, match="no linear region that padding once would make cheaper"):
        pad_once(network, cost=fewest_layers)


@pytest.mark.parametrize("name", [name for name in TOYS if name not in ("own device",)])
def test_a_toy_collapses_without_a_change_of_its_logits(name: str) -> None:
    network = TOYS[name].network()
    names = [site.name for site in network.sites]
    linear = (
        apply_plan(network, ReductionPlan(sites=tuple((n, "identity") for n in names[::2]))) if names else network
    )
    for cost in (fewest_layers, lambda layer: layer.macs):
        collapsed = collapse(linear, cost=cost).network
        assert error(linear, collapsed) < 1e-4
        assert collapsed.relu_count == linear.relu_count


@pytest.mark.parametrize("kind", ["channel_mask", "pixel_mask", "first_channels"])
def test_a_masked_site_is_not_linear_and_bounds_regions_as_a_relu_does(kind: str) -> None:
    network = TOYS["basic"].network()
    sites = {s.name: EXAMPLES[kind](s, random.Random(0)) for s in network.sites}
    masked = apply_plan(network, ReductionPlan(sites=tuple(sites.items())))
    collapsed = collapse(masked).network
    assert [(s.name, s.relu_count) for s in collapsed.sites] == [(s.name, s.relu_count) for s in masked.sites]
    assert len(collapsed.linear_layers) == len(collapse(network).network.linear_layers)
    torch.testing.assert_close(logits(collapsed), logits(masked), rtol=1e-4, atol=1e-5)
