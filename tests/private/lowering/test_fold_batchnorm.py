"""A batch-norm is folded into the layer before it unless something else reads that layer, and computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import trace_network
from deepreduce.private.lowering.lower import lower
from tests.helpers.plain_engine import assert_agrees, calibrated, lowered

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_weight_and_bias_are_those_of_the_formula(bias: bool) -> None:
    module = calibrated(nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.Flatten()), (3, 4, 4))
    convolution, norm = module[0], module[1]  # type: ignore[index]
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    found = lower(trace_network(module, (3, 4, 4)))  # as it is, not collapsed
    assert [layer.kind for layer in found.program.layers] == ["convolution", "move"]
    weight, offset = (found.weights[name] for name in found.program.weights)
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    old = convolution.bias if bias else torch.zeros(4)
    expected = convolution.weight.detach() * factor.view(-1, 1, 1, 1)
    np.testing.assert_allclose(weight, expected.permute(2, 3, 1, 0), rtol=1e-5)
    np.testing.assert_allclose(
        offset, ((old - norm.running_mean) * factor + norm.bias).detach(), rtol=1e-4, atol=1e-6
    )


def test_a_batch_norm_stays_where_another_layer_reads_the_convolution() -> None:
    class ReadTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.fc((F.relu(self.bn(x)) + x).mean(dim=(2, 3)))

    network = trace_network(calibrated(ReadTwice(), (3, 8, 8)), (3, 8, 8))
    assert_agrees(network)
    assert {layer.name: layer.kind for layer in lowered(network).program.layers}["bn"] == "scale"


def test_a_batch_norm_after_a_linear_layer_and_two_in_a_row_are_folded() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    network = trace_network(calibrated(module, (1, 4, 4)), (1, 4, 4))
    assert_agrees(network)
    assert [layer.kind for layer in lowered(network).program.layers] == ["move", "linear"]


def test_a_batch_norm_after_no_layer_scales_and_shifts() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16))
    network = trace_network(calibrated(module, (1, 4, 4)), (1, 4, 4))
    assert_agrees(network)
    assert [layer.kind for layer in lowered(network).program.layers] == ["move", "scale"]
