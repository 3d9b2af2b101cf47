"""Operations become layers with the names of the network."""

from __future__ import annotations

import pytest

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from tests.helpers.plain_engine import calibrated, lowered

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


def test_layers_have_the_names_of_sites_and_layers_and_batch_norms_are_gone() -> None:
    spec = resolve_spec("resnet18", num_classes=10, in_channels=3, width=4)
    network = trace_network(calibrated(build_model(spec, seed=0), (3, 16, 16)), (3, 16, 16), spec=spec)
    layers = {layer.name: layer.kind for layer in lowered(network).program.layers}
    assert {site.name: "relu" for site in network.sites}.items() <= layers.items()
    assert {layer.name for layer in network.linear_layers} <= set(layers)
    assert "scale" not in layers.values()
