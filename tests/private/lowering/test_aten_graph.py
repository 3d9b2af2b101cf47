"""A network is collapsed before it is lowered, and its graph has no side effects and knows its layers."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.private.lowering.aten_graph import aten_graph, layer_of, prepare
from deepreduce.private.lowering.lower import lower
from deepreduce.transforms import apply_plan, cull_plan
from tests.helpers.plain_engine import calibrated, logits_of, lowered

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


def culled(*, pad_once: bool) -> Network:
    spec = resolve_spec("resnet20", width=8, blocks=(1, 1, 1))
    network = trace_network(calibrated(build_model(spec, seed=0), (3, 16, 16)), (3, 16, 16), spec=spec)
    return apply_plan(network, cull_plan(network, ["S1"]).merge(ReductionPlan(pad_once=pad_once)))


def test_the_stem_and_s1_run_privately_as_one_convolution() -> None:
    network = culled(pad_once=True)
    program = lowered(network).program
    assert program.layers[0].name == "collapsed_add" and program.layers[0].kind == "convolution"
    assert not any(layer.name.startswith(("stem.", "stage1.")) for layer in program.layers)


@pytest.mark.parametrize("collapses", [True, False])
def test_a_network_padded_once_computes_what_pytorch_computes(collapses: bool) -> None:
    network = culled(pad_once=True)
    network.module.eval()
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.module(image).numpy()
    found = lower(prepare(network) if collapses else network)
    np.testing.assert_allclose(logits_of(found, image), expected, rtol=1e-3, atol=1e-4)


def test_a_region_that_would_collapse_if_padded_once_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepare(culled(pad_once=False))
    (record,) = caplog.records
    assert "7x7 convolution from 3 channels would differ at the borders" in record.getMessage()
    assert "train it padded once" in record.getMessage()


def test_every_operation_knows_its_layer_and_a_second_call_has_a_name_of_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.conv(self.relu(self.conv(x))))
            x += 1
            return self.fc(x.flatten(1))  # type: ignore[no-any-return]

    network = trace_network(Twice(), (1, 4, 4))
    nodes = [node for node in aten_graph(network).graph.nodes if node.op == "call_function"]
    names = [layer_of(node) for node in nodes]
    first, second = (site.name for site in network.sites)
    assert list(dict.fromkeys(names)) == ["conv", first, "conv#2", second, "add", "flatten", "fc"]
    assert not any(node.target._schema.is_mutable for node in nodes)  # no operation writes into its input
