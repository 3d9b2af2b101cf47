"""What is a linear region: nothing that pads otherwise, has hooks, or is overwritten."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from deepreduce.network import trace_network
from deepreduce.transforms import collapse
from deepreduce.transforms.collapse.regions import RegionFinder, taps
from tests.helpers.linear_nets import (
    Drawn,
    drawing,
    drawn_network,
    error,
    fewest_layers,
    images,
    logits,
    only,
    regions,
    sequence,
)


def test_an_average_that_leaves_the_padding_out_is_no_convolution() -> None:
    network = sequence(nn.Conv2d(3, 4, 1), nn.AvgPool2d(3, padding=1, count_include_pad=False), nn.Conv2d(4, 2, 1))
    assert not collapse(network, cost=fewest_layers).regions


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("kernel", [2, (1, 2), 3])
def test_a_convolution_that_pads_with_anything_but_zeros_is_in_no_region(mode: str, kernel: Any) -> None:
    network = sequence(nn.Conv2d(3, 4, kernel, padding="same", padding_mode=mode), nn.BatchNorm2d(4))
    collapsed = collapse(network, cost=fewest_layers)
    assert not collapsed.regions
    assert error(network, collapsed.network) < 1e-5


def test_a_padding_mode_does_not_matter_where_nothing_is_padded() -> None:
    layers = [nn.Conv2d(3, 4, 1, padding="same", padding_mode="reflect")]
    layers.append(nn.Conv2d(4, 4, 2, padding=0, padding_mode="circular"))
    assert only(sequence(*layers)).outcome == "collapsed"


@pytest.mark.parametrize("pre", [False, True])
def test_a_layer_with_a_hook_is_in_no_region_and_its_hook_still_runs(pre: bool) -> None:
    seen: list[str] = []
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Identity(), nn.Conv2d(4, 4, 1)]
    for layer in layers[1:3]:
        if pre:
            layer.register_forward_pre_hook(lambda _, given: seen.append("ran") or (given[0] + 1,))
        else:
            layer.register_forward_hook(lambda _, given, made: seen.append("ran") or 2 * made)
    network = sequence(*layers)
    collapsed = collapse(network, cost=fewest_layers).network
    assert {"layers.2", "layers.3"} <= {str(node.target) for node in collapsed.module.graph.nodes}
    seen.clear()
    after = logits(collapsed)
    assert seen == ["ran", "ran"]
    torch.testing.assert_close(after, logits(network))


def test_a_tensor_that_is_overwritten_before_it_is_read_again_is_not_collapsed_over() -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv1, self.conv2, self.relu = (
                nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.stem(x))
            y = self.conv1(x)
            x.mul_(2.0)
            return self.relu(y + self.conv2(x)).mean((2, 3))

    network = trace_network(Overwritten().eval(), (3, 8, 8))
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-6


@drawing
@given(regions)
def test_a_position_reads_the_rows_and_columns_that_are_its_taps(drawn: Drawn) -> None:
    network = drawn_network(drawn, 64)
    (region,) = [r for r in RegionFinder(network).maximal() if r.entry == "relu1"]
    stride = region.stride()
    assert stride is not None
    module = copy.deepcopy(network.as_module())
    seen: dict[str, Tensor] = {}
    # the region gets a copy, because the second ReLU works in place
    module.get_submodule("relu1").register_forward_hook(lambda _, given, out: seen.update(entry=out) or out.clone())
    module.get_submodule("relu2").register_forward_pre_hook(lambda _, given: seen.update(exit=given[0].clone()))
    module(images(network))
    middle = [size // 2 for size in seen["exit"].shape[2:]]
    (gradient,) = torch.autograd.grad(seen["exit"][:, :, middle[0], middle[1]].sum(), seen["entry"])
    for axis, offsets in enumerate(taps(region)):
        read = {middle[axis] * stride[axis] + tap for tap in offsets}
        others = tuple(dim for dim in range(4) if dim != 2 + axis)
        reached = set(gradient.abs().sum(dim=others).nonzero().flatten().tolist())
        # far from the borders a position reads all of its taps
        assert reached == read if stride == (1, 1) else reached <= read
