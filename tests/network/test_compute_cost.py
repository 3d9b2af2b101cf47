"""The estimated time of a network: multiply-accumulates of padded channels, and an overhead for each operation."""

from __future__ import annotations

import pytest
from torch import nn

from deepreduce.network import ComputeCost, trace_network


def test_the_overhead_is_shared_by_the_images_of_a_batch() -> None:
    cost = ComputeCost(macs=5e6, operations=10)
    assert cost.per_image(1) == 5e6 + 10 * 2e6
    assert cost.per_image(20) == 5e6 + 1e6
    assert all(cost.per_image(n) > cost.per_image(2 * n) > cost.macs for n in (1, 2, 64, 1024))


@pytest.mark.parametrize(
    ("layers", "macs"),
    [
        ([nn.Conv2d(3, 16, 1)], 16 * 16 * 64),  # 3 channels take a vector of 16
        ([nn.Conv2d(3, 17, 3, padding=1)], 16 * 32 * 9 * 64),
        ([nn.Conv2d(3, 32, 1), nn.Conv2d(32, 16, 1)], (16 * 32 + 32 * 16) * 64),
        ([nn.Conv2d(3, 3, 3, padding=1, groups=3)], 3 * 9 * 64),  # not dense: nothing to pad
    ],
)
def test_channels_of_dense_convolutions_are_rounded_up_to_16(layers: list[nn.Module], macs: int) -> None:
    network = trace_network(nn.Sequential(*layers, nn.ReLU()), (3, 8, 8))
    assert network.compute_cost == ComputeCost(macs=macs, operations=len(layers) + 1)
    assert network.compute_cost.macs >= network.macs
