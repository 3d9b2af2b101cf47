"""Pixel masks compute y = m * relu(z) + (1 - m) * z element by element, and are channel masks where they can be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, ChannelMask, PixelMask
from deepreduce.transforms import apply_plan, normalise_plan
from tests.helpers.zoo import TOYS, SharedModule
from tests.sites.test_channel_mask import FIRST, Perceptron, images, masked


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_it_is_the_formula(seed: int) -> None:
    torch.manual_seed(0)
    module = SharedModule().eval()
    m = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(seed)) > 0.7
    reduced = masked(trace_network(module, (3, 8, 8)), relu=PixelMask.of(m))
    assert [site.relu_count for site in reduced.sites] == [int(m.sum()), 4 * 64]
    with torch.no_grad():
        z = module.conv1(images())
        x = F.relu(module.conv2(m.float() * F.relu(z) + (1 - m.float()) * z))
        assert torch.equal(reduced.as_module().eval()(images()), module.fc(x.mean(dim=(2, 3))))


def test_one_of_whole_channels_is_a_channel_mask() -> None:
    network = TOYS["basic"].network()
    whole = ReductionPlan(sites=(("relu", PixelMask.of(FIRST.view(4, 1, 1).expand(4, 8, 8))),))
    assert normalise_plan(network, whole) == ReductionPlan(sites=(("relu", ChannelMask.of(FIRST)),))
    for kept, expected in ((True, ReductionPlan()), (False, ReductionPlan(sites=(("relu", IDENTITY),)))):
        full = ReductionPlan(sites=(("relu", PixelMask.of(torch.full((4, 8, 8), kept))),))
        assert normalise_plan(network, full) == expected


def test_a_site_of_features_is_refused_and_the_channel_mask_named() -> None:
    network = trace_network(Perceptron(), (3, 8, 8))
    mask = PixelMask.of(FIRST.view(4, 1, 1))
    with pytest.raises(PlanError, match=r"a pixel_mask is for outputs \(C, H, W\) .* is \(4,\); a channel mask fits"):
        masked(network, relu1=mask)


def test_a_mask_of_another_shape_is_refused_with_both() -> None:
    network = TOYS["basic"].network()
    mask = PixelMask.of(torch.eye(8).bool().expand(3, 8, 8))
    with pytest.raises(PlanError, match=r"'relu' is of shape \(4, 8, 8\) .* its pixel_mask of \(3, 8, 8\)"):
        apply_plan(network, ReductionPlan(sites=(("relu", mask),)))
    with pytest.raises(PlanError, match=r"pixel mask of shape \(4,\) is given; give one boolean per element"):
        PixelMask.of(FIRST)
