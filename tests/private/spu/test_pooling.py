"""Every kind of pooling computes what PyTorch computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepreduce.network import trace_network
from tests.helpers.plain_engine import assert_agrees

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


class Pools(nn.Module):
    """Every kind of pooling, with strides, padding and sizes that do not divide."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 4, 3), pool, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.conv(x)).flatten(1))


POOLS = {
    "max": nn.MaxPool2d(2),
    "max 3, 2, 1": nn.MaxPool2d(3, 2, 1),
    "max ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max dilated": nn.MaxPool2d(2, dilation=2),
    "avg": nn.AvgPool2d(2),
    "avg 3, 2, 1": nn.AvgPool2d(3, 2, 1),
    "avg without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "avg ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
    "avg padded ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "avg divisor": nn.AvgPool2d((2, 3), divisor_override=5),
    "global": nn.AdaptiveAvgPool2d(1),
    "adaptive": nn.AdaptiveAvgPool2d((3, 4)),
    "wider": nn.AdaptiveAvgPool2d(20),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling_computes_what_pytorch_computes(name: str) -> None:
    torch.manual_seed(0)
    module = Pools(POOLS[name])
    module(torch.zeros(1, 3, 12, 13))
    assert_agrees(trace_network(module, (3, 12, 13)))
