"""Batch-norms go into the layer before them where nothing else reads it."""

from __future__ import annotations

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import trace_network
from tests.helpers.plain_engine import assert_agrees, calibrated, lowered

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


def test_a_batch_norm_stays_where_another_layer_reads_the_convolution() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.fc((F.relu(self.bn(x)) + x).mean(dim=(2, 3)))

    network = trace_network(calibrated(Peeking(), (3, 8, 8)), (3, 8, 8))
    assert_agrees(network)
    assert {layer.name: layer.kind for layer in lowered(network).program.layers}["bn"] == "scale"
