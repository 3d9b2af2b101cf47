"""Blocks are the modules of a class in whose forward pass feature maps meet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepreduce.network import trace_network
from deepreduce.network.branching import block_outputs


class Inverted(nn.Module):
    """An inverted residual that adds its input only where it keeps the map's size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv, self.stride = nn.Sequential(nn.Conv2d(4, 4, 3, stride, 1), nn.ReLU()), stride

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x if self.stride == 1 else self.conv(x)


class Flat(nn.Module):
    """Reads a map and its sizes: nothing meets here."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0), -1)


def test_a_block_without_a_residual_addition_is_one_by_its_class() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Inverted(1), Inverted(2), Flat())
    network = trace_network(module, (3, 8, 8))
    assert block_outputs(network.module, module, network.node_shapes) == {"2": 64, "3": 16}


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.relu(self.conv(x.mean((2, 3), keepdim=True)))


def test_a_gate_returns_the_map_that_it_scales() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), Gate(), nn.Flatten())
    network = trace_network(module, (3, 8, 8))
    assert block_outputs(network.module, module, network.node_shapes) == {"1": 36}
    assert network.stages == ("S1",)
