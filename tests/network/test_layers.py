"""Layers as plain values hold what the network holds."""

from __future__ import annotations

import pytest

from deepreduce.network.layers import layers_of
from tests.zoo import TOYS


@pytest.mark.parametrize("name", TOYS)
def test_layers_have_the_networks_macs_and_relus(name: str) -> None:
    network = TOYS[name].network()
    layers = layers_of(network)
    assert sum(layer.macs for layer in layers) == network.macs
    relus = [layer for layer in layers if layer.kind in ("relu", "relu6")]
    assert [(layer.name, layer.outputs) for layer in relus] == [(s.name, s.relu_count) for s in network.sites]
    assert len({layer.name for layer in layers}) == len(layers)
